package ipc

import (
	"slices"
	"sync"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// sendQueue holds the frames that have been accepted and that the kernel does
// not have yet, in segments, and their accounts. It knows no lock and no
// connection: outbox has both.
//
//	segs:  [ sent and forgotten | in flight | queued ]
//	                            head        head+flight
//
// The segments in flight are those of a system call that is under way. They do
// not change until advance records what became of them.
type sendQueue struct {
	segs     []segment
	head     int
	flight   int
	off      int // bytes of segs[head] that the connection has taken, as they are sent
	overhead int // bytes that sealing adds to each frame
	cost     int // of the frames in the queue, for outboxBound

	queuedSeq uint64 // frames that were ever queued
	sentSeq   uint64 // of them, those that are no longer queued

	messages, bytes uint64 // accepted, for Stats
}

// segment is a run of whole frames.
type segment struct {
	head   []byte // before body; only for a large message
	body   []byte
	frames int
	gone   int    // frames that were here; Flush still counts them
	chunk  *chunk // to give back; nil if body is not ours alone
	large  *large // whose message it is, if it is not copied
}

func (s *segment) size() int { return len(s.head) + len(s.body) }

func (s *segment) cost() int {
	if s.large != nil {
		return 0 // it takes no memory of ours
	}
	return s.size() + s.frames*(messageCost-wire.HeaderSize)
}

// clear leaves an empty segment in the place of a large message, so that what
// was queued later is still counted as later.
func (s *segment) clear() {
	s.head, s.body = nil, nil
	s.gone += s.frames
	s.frames = 0
}

// large is a message whose Write waits until the kernel has it.
type large struct {
	header [wire.HeaderSize]byte
	size   int
	cancel error         // why it is to be taken back, if no byte of it has left
	done   chan struct{} // closed when it has left the queue, with err
	err    error
}

func (m *large) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// largeSize is where a message is no longer copied: Write waits until the
// kernel has it.
const largeSize = 32 << 10

// maxFlight is how many segments one system call is given: more than a socket
// holds, and not so much that a Write would wait long for the room of what the
// kernel has taken already.
const maxFlight = 4

// maxIdleQueue is the longest queue whose memory an empty sendQueue keeps.
const maxIdleQueue = 16

// chunk is the memory of a segment that gathers small frames. The first of an
// empty queue is a small one, so that a thousand slow clients with a message
// each are no burden.
type chunk struct {
	b    []byte
	pool *sync.Pool
}

const smallChunkSize = 4 << 10

var (
	smallChunks = chunkPool(smallChunkSize)
	chunks      = chunkPool(2 * largeSize)
)

func chunkPool(size int) *sync.Pool {
	p := new(sync.Pool)
	p.New = func() any { return &chunk{make([]byte, 0, size), p} }
	return p
}

func getChunk(first bool, need int) *chunk {
	if first && need <= smallChunkSize {
		return smallChunks.Get().(*chunk)
	}
	return chunks.Get().(*chunk)
}

func (q *sendQueue) empty() bool { return q.head == len(q.segs) }

// hasRoom reports whether the bound admits a message of size bytes. An empty
// queue admits any.
func (q *sendQueue) hasRoom(size int) bool {
	return q.cost == 0 || q.cost+size+messageCost <= outboxBound
}

// append queues a copy of a message.
func (q *sendQueue) append(msgType int, data []byte) {
	b := q.extend(len(data))
	wire.PutHeader(b, msgType, len(data))
	copy(b[wire.HeaderSize:], data)
	q.count(len(data))
}

// appendControl queues a control frame with a copy of data.
func (q *sendQueue) appendControl(f *wire.Control, data []byte) {
	b := q.extend(wire.ControlSize + len(data))
	wire.PutControlHeader(b, f, len(data))
	copy(b[wire.ControlHeaderSize:], data)
}

// appendAnnouncement queues the announcement that this side knows requests.
func (q *sendQueue) appendAnnouncement() { wire.PutAnnouncement(q.extend(wire.ControlSize)) }

// extend queues a frame with size bytes of data, and returns it, to be filled.
func (q *sendQueue) extend(size int) []byte {
	need := wire.HeaderSize + size
	s := q.open(need)
	n := len(s.body)
	s.body = s.body[:n+need]
	s.frames++
	q.queuedSeq++
	q.cost += size + messageCost
	return s.body[n:]
}

// single reports whether the queue is one segment, of which nothing has left.
func (q *sendQueue) single() bool {
	return len(q.segs) == q.head+1 && q.off == 0 && q.segs[q.head].large == nil
}

// open returns a segment at the end of the queue with need bytes of room.
func (q *sendQueue) open(need int) *segment {
	if n := len(q.segs); n > q.head+q.flight {
		s := &q.segs[n-1]
		if s.chunk != nil && cap(s.body)-len(s.body) >= need {
			return s
		}
	}
	c := getChunk(q.empty(), need)
	q.segs = append(q.segs, segment{body: c.b, chunk: c})
	return &q.segs[len(q.segs)-1]
}

// appendFrame queues a frame of a message with size bytes, which is not copied
// and must not change.
func (q *sendQueue) appendFrame(frame []byte, size int) {
	q.push(segment{body: frame, frames: 1})
	q.count(size)
}

// appendLarge queues a message without copying it. It is counted as accepted
// when it ends without an error.
func (q *sendQueue) appendLarge(msgType int, data []byte) *large {
	m := &large{size: len(data), done: make(chan struct{})}
	wire.PutHeader(m.header[:], msgType, len(data))
	q.push(segment{head: m.header[:], body: data, frames: 1, large: m})
	return m
}

func (q *sendQueue) push(s segment) {
	q.segs = append(q.segs, s)
	q.queuedSeq += uint64(s.frames)
	q.cost += s.cost()
}

// count records that a message was accepted.
func (q *sendQueue) count(size int) {
	q.messages++
	q.bytes += uint64(size)
}

// takeOff returns the segments for the next system call, which are in flight
// from now on: a large message, or what is before the next one, up to maxFlight.
func (q *sendQueue) takeOff() []segment {
	segs := q.segs[q.head:]
	segs = segs[:min(len(segs), maxFlight)]
	for i := range segs {
		if segs[i].large != nil {
			segs = segs[:max(i, 1)]
			break
		}
	}
	q.flight = len(segs)
	return segs
}

// advance records that the connection has accepted n more bytes. Nothing is in
// flight any more.
func (q *sendQueue) advance(n int) {
	q.flight = 0
	q.off += n
	for !q.empty() {
		s := &q.segs[q.head]
		size := s.size() + s.frames*q.overhead
		if q.off < size {
			q.advanceWithin(s)
			break
		}
		q.off -= size
		q.remove(s)
	}
	q.compact()
}

// advanceWithin removes the frames of s that have been accepted whole.
func (q *sendQueue) advanceWithin(s *segment) {
	if s.frames < 2 {
		return
	}
	before := s.cost()
	for n := wire.FrameSize(s.body); q.off >= n+q.overhead; n = wire.FrameSize(s.body) {
		s.body = s.body[n:]
		s.frames--
		q.sentSeq++
		q.off -= n + q.overhead
	}
	q.cost += s.cost() - before
}

// remove takes s, which is at the head, off the queue.
func (q *sendQueue) remove(s *segment) {
	q.sentSeq += uint64(s.frames + s.gone)
	q.cost -= s.cost()
	if s.large != nil {
		q.finish(s, nil)
	}
	if s.chunk != nil {
		s.chunk.pool.Put(s.chunk)
	}
	*s = segment{}
	q.head++
}

// compact forgets what has been removed.
func (q *sendQueue) compact() {
	switch {
	case q.empty():
		q.head = 0
		q.segs = q.segs[:0]
		if cap(q.segs) > maxIdleQueue || q.queuedSeq == 1 {
			q.segs = nil // many connections have only an announcement to send
		}
	case q.head > len(q.segs)/2:
		n := copy(q.segs, q.segs[q.head:])
		clear(q.segs[n:])
		q.segs = q.segs[:n]
		q.head = 0
	}
}

// finish ends the Write that waits for s, a large message.
func (q *sendQueue) finish(s *segment, err error) {
	if err == nil {
		q.count(s.large.size)
	}
	s.large.err = err
	close(s.large.done)
	s.large = nil
}

// withdraw takes the large message at i back for the reason err. If some of it
// has left, it counts as accepted, and the queue keeps a copy.
func (q *sendQueue) withdraw(i int, err error) {
	s := &q.segs[i]
	if i == q.head && q.off > 0 {
		q.keepCopy(s)
		return
	}
	s.clear()
	q.finish(s, err)
}

// keepCopy makes the message of a waiting Write the queue's own. It is copied
// whole, as it may have to be sent again.
func (q *sendQueue) keepCopy(s *segment) {
	b := make([]byte, 0, s.size())
	s.body = append(append(b, s.head...), s.body...)
	s.head = nil
	q.finish(s, nil)
	q.cost += s.cost()
}

// restart prepares the queue for another connection, which has taken nothing
// yet. Large messages are withdrawn, for the reason err unless they have their
// own. With resend, one of which a part has left is kept.
func (q *sendQueue) restart(resend bool, err error) {
	if !resend {
		q.off = 0
	}
	for i := q.head; i < len(q.segs); i++ {
		m := q.segs[i].large
		switch {
		case m == nil:
		case m.cancel != nil:
			q.withdraw(i, m.cancel)
		default:
			q.withdraw(i, err)
		}
	}
	q.off = 0
}

// drop empties the queue and returns how many messages were in it.
func (q *sendQueue) drop() (n int) {
	for !q.empty() {
		s := &q.segs[q.head]
		n += s.frames
		q.remove(s)
	}
	q.off = 0
	q.compact()
	return n
}

// dropLarger removes the frames of messages over limit bytes, and returns the
// sizes of those.
func (q *sendQueue) dropLarger(limit int) (dropped []int) {
	q.filter(func(frame []byte) bool {
		size := len(frame) - wire.HeaderSize
		if size > limit {
			dropped = append(dropped, size)
		}
		return size <= limit
	})
	return dropped
}

// dropControl removes the control frames. It returns the ids of the requests, and
// how many replies there were.
func (q *sendQueue) dropControl() (requests map[uint64]bool, replies int) {
	q.filter(func(frame []byte) bool {
		f, ok := wire.ParseFrame(frame)
		switch {
		case !ok:
			return true
		case f.Kind == wire.Request:
			if requests == nil {
				requests = make(map[uint64]bool)
			}
			requests[f.ID] = true
			q.messages--
			q.bytes -= uint64(len(f.Payload))
		case f.Kind == wire.Reply || f.Kind == wire.Part || f.Kind == wire.Error && f.N > 0:
			replies++
		}
		return false
	})
	return requests, replies
}

// filter removes the frames for which keep returns false. No large message is
// queued, and nothing is in flight.
func (q *sendQueue) filter(keep func(frame []byte) bool) {
	for i := q.head; i < len(q.segs); i++ {
		s := &q.segs[i]
		q.cost -= s.cost()
		kept := s.body[:0:0]
		for b := s.body; len(b) > 0; {
			n := wire.FrameSize(b)
			if keep(b[:n]) {
				kept = append(kept, b[:n]...)
			} else {
				s.frames--
				s.gone++
			}
			b = b[n:]
		}
		if len(kept) < len(s.body) {
			s.body, s.chunk = kept, nil
		}
		q.cost += s.cost()
	}
}

// withdrawRequest removes the request id, unless it is in one of the first fixed
// segments, or some of it has left. It reports whether it has.
func (q *sendQueue) withdrawRequest(id uint64, fixed int) bool {
	for i := q.head + fixed; i < len(q.segs); i++ {
		s := &q.segs[i]
		if s.large != nil {
			continue
		}
		for at := 0; at < len(s.body); {
			n := wire.FrameSize(s.body[at:])
			f, ok := wire.ParseFrame(s.body[at : at+n])
			if !ok || f.Kind != wire.Request || f.ID != id {
				at += n
				continue
			}
			if i == q.head && at == 0 && q.off > 0 {
				return false
			}
			q.cost -= s.cost()
			s.body = append(s.body[:at], s.body[at+n:]...)
			s.frames--
			s.gone++
			q.cost += s.cost()
			if s.frames == 0 {
				q.dropEmpty(i, fixed)
			}
			return true
		}
	}
	return false
}

// dropEmpty gives back the memory of the segment at i, which has no frames left, and
// takes it out of the queue, if there is another one beside it that is not fixed and
// can count what is gone.
func (q *sendQueue) dropEmpty(i, fixed int) {
	s := &q.segs[i]
	if s.chunk != nil {
		s.chunk.pool.Put(s.chunk)
	}
	s.body, s.chunk = nil, nil
	switch {
	case i+1 < len(q.segs):
		q.segs[i+1].gone += s.gone
	case i-1 >= q.head+fixed:
		q.segs[i-1].gone += s.gone
	default:
		return
	}
	q.segs = slices.Delete(q.segs, i, i+1)
}
