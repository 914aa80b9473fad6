package ipc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

var errTaken = errors.New("taken back")

// content is data of a size that tells from which message it is.
func content(n, size int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }

// queued returns the bytes that are in q, each frame followed by as many as
// sealing adds.
func queued(segs []segment, overhead int) (b []byte) {
	size := 0
	for _, s := range segs {
		size += s.size() + s.frames*overhead
	}
	b = make([]byte, 0, size)
	for _, s := range segs {
		plain := slices.Concat(s.head, s.body)
		for len(plain) > 0 {
			n := wire.FrameSize(plain)
			b = append(append(b, plain[:n]...), make([]byte, overhead)...)
			plain = plain[n:]
		}
	}
	return b
}

// checkQueue checks what is always so.
func checkQueue(t *testing.T, q *sendQueue) {
	t.Helper()
	cost, frames, gone := 0, 0, 0
	for i := range q.segs {
		s := &q.segs[i]
		if i < q.head {
			if s.body != nil || s.head != nil || s.chunk != nil || s.large != nil {
				t.Fatalf("segment %d has been sent and holds memory", i)
			}
			continue
		}
		cost += s.cost()
		frames += s.frames
		gone += s.gone
		if got := len(queued(q.segs[i:i+1], 1)) - s.size(); got != s.frames {
			t.Fatalf("segment %d has %d frames and says %d", i, got, s.frames)
		}
	}
	if q.cost != cost {
		t.Fatalf("cost %d, and that of the segments is %d", q.cost, cost)
	}
	if q.queuedSeq-q.sentSeq != uint64(frames+gone) {
		t.Fatalf("queued %d, sent %d, and %d + %d are in the queue", q.queuedSeq, q.sentSeq, frames, gone)
	}
	if q.off < 0 || q.off > 0 && q.off >= q.segs[q.head].size()+q.segs[q.head].frames*q.overhead {
		t.Fatalf("%d bytes of the first segment are taken", q.off)
	}
	if q.empty() && (q.cost != 0 || q.head != 0 || len(q.segs) != 0 || cap(q.segs) > maxIdleQueue) {
		t.Fatalf("an empty queue: cost %d, head %d, %d of %d segments", q.cost, q.head, len(q.segs), cap(q.segs))
	}
	if q.head > 0 && q.head > len(q.segs)/2 {
		t.Fatalf("%d of %d segments have been sent and are kept", q.head, len(q.segs))
	}
}

// wantCounts checks the accounts of q.
func wantCounts(t *testing.T, q *sendQueue, queuedSeq, sentSeq uint64, cost int) {
	t.Helper()
	checkQueue(t, q)
	if q.queuedSeq != queuedSeq || q.sentSeq != sentSeq || q.cost != cost {
		t.Fatalf("queued %d, sent %d, cost %d, want %d, %d, %d", q.queuedSeq, q.sentSeq, q.cost, queuedSeq, sentSeq, cost)
	}
}

// wantLarge checks whether m has ended, and why.
func wantLarge(t *testing.T, m *large, ended bool, err error) {
	t.Helper()
	if m.ended() != ended || ended && m.err != err {
		t.Fatalf("the large message has ended: %t with %v, want %t with %v", m.ended(), m.err, ended, err)
	}
}

// Frames are queued one behind the other, in order, and leave whole or not: with
// the connection's stream cut at every byte, what is left is what has not
// been taken, and counted so.
func TestAdvanceAtEveryByte(t *testing.T) {
	sizes := []int{3, 0, 1, 600, 2, 700, 5, 6}
	const shared, big = 3, 5 // of them
	fill := func(q *sendQueue) (waiting *large) {
		for i, size := range sizes {
			switch i {
			case shared:
				q.appendFrame(plainFrame(uint32(i+1), content(i, size)), size)
			case big:
				waiting = q.appendLarge(i+1, content(i, size))
			default:
				q.append(i+1, content(i, size))
			}
		}
		return waiting
	}
	for _, overhead := range []int{0, wire.SealOverhead} {
		q := &sendQueue{overhead: overhead}
		fill(q)
		all := queued(q.segs, overhead)
		// The ends of frames, and what they cost.
		var ends, costs []int
		end := 0
		for i, size := range sizes {
			end += wire.HeaderSize + size + overhead
			ends = append(ends, end)
			if i == big {
				costs = append(costs, 0)
			} else {
				costs = append(costs, size+messageCost)
			}
		}
		for n := range len(all) + 1 {
			q := &sendQueue{overhead: overhead}
			m := fill(q)
			q.advance(n)
			left, first := 0, len(sizes) // the first that is queued
			for i := len(ends) - 1; i >= 0 && ends[i] > n; i-- {
				left += costs[i]
				first = i
			}
			wantCounts(t, q, uint64(len(sizes)), uint64(first), left)
			if got := queued(q.segs[q.head:], overhead)[q.off:]; !bytes.Equal(got, all[n:]) {
				t.Fatalf("with %d of %d bytes taken, %d others are left", n, len(all), len(got))
			}
			wantLarge(t, m, first > big, nil)
		}
		// And byte by byte.
		q = &sendQueue{overhead: overhead}
		m := fill(q)
		for range all {
			q.advance(1)
			checkQueue(t, q)
		}
		wantCounts(t, q, uint64(len(sizes)), uint64(len(sizes)), 0)
		wantLarge(t, m, true, nil)
	}
}

// Stats counts what has been accepted: a large message when it has left.
func TestQueueCountsMessages(t *testing.T) {
	var q sendQueue
	want := func(messages, bytes uint64) {
		t.Helper()
		if q.messages != messages || q.bytes != bytes {
			t.Fatalf("%d messages with %d bytes, want %d, %d", q.messages, q.bytes, messages, bytes)
		}
	}
	q.append(1, content(1, 10))
	want(1, 10)
	q.appendFrame(plainFrame(1, content(1, 50)), 50)
	want(2, 60)
	first := q.appendLarge(1, content(1, largeSize))
	second := q.appendLarge(1, content(1, largeSize))
	want(2, 60)
	q.withdraw(3, errTaken)
	want(2, 60)
	wantLarge(t, second, true, errTaken)
	q.advance(len(queued(q.segs, 0)))
	want(3, 60+largeSize)
	wantLarge(t, first, true, nil)
}

// Small frames gather in a segment as long as it has room: first a small one, and
// then larger ones.
func TestAppendFillsSegments(t *testing.T) {
	var q sendQueue
	const frame = 100
	add := func() { q.append(1, make([]byte, frame-wire.HeaderSize)) }
	for range smallChunkSize / frame {
		add()
	}
	if len(q.segs) != 1 || cap(q.segs[0].chunk.b) != smallChunkSize {
		t.Fatalf("%d segments, the first of %d bytes", len(q.segs), cap(q.segs[0].chunk.b))
	}
	for range 2 * largeSize / frame {
		add()
		if len(q.segs) != 2 || cap(q.segs[1].chunk.b) != 2*largeSize {
			t.Fatalf("%d segments, the second of %d bytes", len(q.segs), cap(q.segs[1].chunk.b))
		}
	}
	add()
	if len(q.segs) != 3 {
		t.Fatalf("%d segments", len(q.segs))
	}
	checkQueue(t, &q)

	// The room is used to the last byte, and not past it.
	q = sendQueue{}
	q.append(1, make([]byte, smallChunkSize-wire.HeaderSize-10))
	q.append(1, make([]byte, 10-wire.HeaderSize))
	if len(q.segs) != 1 {
		t.Fatal("10 bytes of room are not used")
	}
	q.append(1, nil)
	if len(q.segs) != 2 {
		t.Fatal("a full segment was used")
	}

	// A frame over the small chunk gets a large one.
	q = sendQueue{}
	q.append(1, make([]byte, smallChunkSize-wire.HeaderSize+1))
	q.append(1, make([]byte, largeSize-1))
	if len(q.segs) != 1 || cap(q.segs[0].chunk.b) != 2*largeSize {
		t.Fatalf("%d segments, the first of %d bytes", len(q.segs), cap(q.segs[0].chunk.b))
	}

	// What is not the queue's own is not appended to, nor before it.
	q = sendQueue{}
	q.append(1, nil)
	shared := append(make([]byte, 0, 1000), plainFrame(2, []byte("shared"))...)
	q.appendFrame(shared, 6)
	q.append(3, nil)
	q.appendLarge(4, make([]byte, largeSize))
	q.append(5, nil)
	if len(q.segs) != 5 || !bytes.Equal(shared[:cap(shared)][len(shared):], make([]byte, cap(shared)-len(shared))) {
		t.Fatalf("%d segments, want 5", len(q.segs))
	}
	checkQueue(t, &q)
}

// What is in flight does not change: neither by what is queued meanwhile, nor in
// the memory behind it.
func TestAppendLeavesWhatIsInFlight(t *testing.T) {
	var q sendQueue
	q.append(1, []byte("in flight"))
	segs := q.takeOff()
	if len(segs) != 1 || q.flight != 1 {
		t.Fatalf("%d segments of %d are in flight", len(segs), q.flight)
	}
	before := segs[0]
	behind := bytes.Clone(before.body[:cap(before.body)])
	q.append(2, []byte("meanwhile"))
	q.append(3, []byte("meanwhile"))
	after := segs[0]
	if len(after.body) != len(before.body) || after.frames != 1 || !bytes.Equal(before.body[:cap(before.body)], behind) {
		t.Fatal("what is in flight has changed")
	}
	if len(q.segs) != 2 {
		t.Fatalf("%d segments, want 2", len(q.segs))
	}
	wantCounts(t, &q, 3, 0, 3*messageCost+9+9+9)

	// Of one that is back, the rest is free to be appended to.
	q.advance(4)
	if q.flight != 0 {
		t.Fatalf("%d segments are in flight after advance", q.flight)
	}
	q.append(4, nil)
	if len(q.segs) != 2 {
		t.Fatalf("%d segments, want 2", len(q.segs))
	}
	q.advance(len(before.body) - 4)
	wantCounts(t, &q, 4, 1, 3*messageCost+9+9)
}

// A system call is given a large message alone, or what is before it, but never
// more than maxFlight segments.
func TestTakeOff(t *testing.T) {
	const small, big = false, true
	for _, tt := range []struct {
		segs []bool
		want []int // how many segments each call is given
	}{
		{nil, []int{}},
		{[]bool{small}, []int{1}},
		{[]bool{big}, []int{1}},
		{[]bool{small, small, small}, []int{3}},
		{[]bool{big, small, small}, []int{1, 2}},
		{[]bool{small, big, small}, []int{1, 1, 1}},
		{[]bool{small, small, big, big}, []int{2, 1, 1}},
		{slices.Repeat([]bool{small}, maxFlight), []int{maxFlight}},
		{slices.Repeat([]bool{small}, 2*maxFlight+1), []int{maxFlight, maxFlight, 1}},
		{append(slices.Repeat([]bool{small}, maxFlight), big), []int{maxFlight, 1}},
	} {
		var q sendQueue
		for i, big := range tt.segs {
			if big {
				q.appendLarge(i+1, content(i, largeSize))
			} else {
				q.appendFrame(plainFrame(uint32(i+1), nil), 0) // a segment of its own
			}
		}
		var got []int
		for !q.empty() {
			segs := q.takeOff()
			if len(segs) == 0 || q.flight != len(segs) || &segs[0] != &q.segs[q.head] {
				t.Fatalf("%v: %d segments, and %d are in flight", tt.segs, len(segs), q.flight)
			}
			got = append(got, len(segs))
			q.advance(len(queued(segs, 0)))
			checkQueue(t, &q)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v segments, want %v", tt.segs, got, tt.want)
		}
	}
}

// The bound counts all but large messages, which take no memory of the queue, and
// an empty queue admits a message of any size.
func TestQueueRoom(t *testing.T) {
	var q sendQueue
	if !q.hasRoom(2 * outboxBound) {
		t.Error("an empty queue does not admit a message over the bound")
	}
	q.appendLarge(1, make([]byte, largeSize))
	if !q.hasRoom(2 * outboxBound) {
		t.Error("a large message takes room")
	}
	q.append(1, make([]byte, 1000))
	if q.cost != 1000+messageCost {
		t.Errorf("cost %d", q.cost)
	}
	most := outboxBound - q.cost - messageCost
	if !q.hasRoom(most) || q.hasRoom(most+1) {
		t.Errorf("room for %d bytes: %t, and one more: %t", most, q.hasRoom(most), q.hasRoom(most+1))
	}
}

// A large message can be withdrawn while nothing of it has left. It leaves its
// place in the count, so that Flush does not take what is behind it for sent.
func TestWithdrawBeforeItLeft(t *testing.T) {
	var q sendQueue
	q.append(1, []byte("before"))
	m := q.appendLarge(2, content(2, largeSize))
	q.append(3, []byte("behind"))
	cost := 2*messageCost + 12
	wantCounts(t, &q, 3, 0, cost)
	q.withdraw(1, errTaken)
	wantLarge(t, m, true, errTaken)
	wantCounts(t, &q, 3, 0, cost)
	want := slices.Concat(plainFrame(1, []byte("before")), plainFrame(3, []byte("behind")))
	if got := queued(q.segs[q.head:], 0); !bytes.Equal(got, want) {
		t.Fatalf("%q is left", got)
	}
	// It is through when what is before it is, and no sooner.
	q.advance(5)
	wantCounts(t, &q, 3, 0, cost)
	q.advance(len(want)/2 - 5)
	wantCounts(t, &q, 3, 2, messageCost+6)
	q.advance(len(want) / 2)
	wantCounts(t, &q, 3, 3, 0)
}

// Withdrawn at the head it is gone with the next advance, of no bytes.
func TestWithdrawAtTheHead(t *testing.T) {
	for _, overhead := range []int{0, wire.SealOverhead} {
		q := sendQueue{overhead: overhead}
		m := q.appendLarge(2, content(2, largeSize))
		q.append(3, nil)
		q.withdraw(0, errTaken)
		wantLarge(t, m, true, errTaken)
		wantCounts(t, &q, 2, 0, messageCost)
		q.advance(0)
		wantCounts(t, &q, 2, 1, messageCost)
		if got := queued(q.segs[q.head:], 0); !bytes.Equal(got, plainFrame(3, nil)) {
			t.Fatalf("%q is left", got)
		}
	}
}

// Of a large message of which some has left, the rest is copied: it is accepted,
// its caller may change data, and the queue has its cost.
func TestWithdrawAfterItLeft(t *testing.T) {
	for _, taken := range []int{1, wire.HeaderSize - 1, wire.HeaderSize, wire.HeaderSize + 1, wire.HeaderSize + largeSize - 1} {
		var q sendQueue
		q.append(1, nil)
		data := content(2, largeSize)
		m := q.appendLarge(2, data)
		q.append(3, nil)
		all := queued(q.segs, 0)
		q.advance(wire.HeaderSize + taken)
		wantLarge(t, m, false, nil)
		wantCounts(t, &q, 3, 1, messageCost)
		q.withdraw(q.head, errTaken)
		wantLarge(t, m, true, nil)
		if q.messages != 3 || q.bytes != largeSize {
			t.Fatalf("%d messages with %d bytes", q.messages, q.bytes)
		}
		clear(data)
		wantCounts(t, &q, 3, 1, 2*messageCost+largeSize)
		if got := queued(q.segs[q.head:], 0)[q.off:]; !bytes.Equal(got, all[wire.HeaderSize+taken:]) {
			t.Fatalf("with %d bytes taken, others are left than the rest", taken)
		}
		q.append(4, nil)
		q.advance(wire.HeaderSize + largeSize - taken)
		wantCounts(t, &q, 4, 2, 2*messageCost)
	}
}

// For another connection, what the last one has not taken whole comes again from
// its first byte, and large messages end: with resend, one of which a part has left
// is copied before.
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		resend bool
		taken  int // bytes of the large message, after that of the small one before it
		kept   bool
	}{
		{true, -1, false}, {true, 0, false}, {true, 1, true}, {true, wire.HeaderSize + 100, true},
		{false, -1, false}, {false, 0, false}, {false, 1, false}, {false, wire.HeaderSize + 100, false},
	} {
		t.Run(fmt.Sprintf("resend %t, %d", tt.resend, tt.taken), func(t *testing.T) {
			var q sendQueue
			q.append(1, []byte("first"))
			m := q.appendLarge(2, content(2, largeSize))
			own := q.appendLarge(3, content(3, largeSize))
			last := q.appendLarge(4, content(4, largeSize))
			own.cancel = errTaken
			q.append(5, nil)
			errLost := errors.New("lost")

			frames := [][]byte{plainFrame(1, []byte("first"))}
			q.advance(len(frames[0]) + tt.taken)
			q.restart(tt.resend, errLost)
			q.advance(0)
			if tt.kept {
				wantLarge(t, m, true, nil)
				frames = append(frames, plainFrame(2, content(2, largeSize)))
			} else {
				wantLarge(t, m, true, errLost)
			}
			wantLarge(t, own, true, errTaken)
			wantLarge(t, last, true, errLost)
			if tt.taken >= 0 {
				frames = frames[1:]
			}
			frames = append(frames, plainFrame(5, nil))
			if got := queued(q.segs[q.head:], 0); q.off != 0 || !bytes.Equal(got, slices.Concat(frames...)) {
				t.Fatalf("%d bytes are left, want %d, and %d are taken, want 0", len(got), len(slices.Concat(frames...)), q.off)
			}
			checkQueue(t, &q)
			if n := q.drop(); n != len(frames) {
				t.Errorf("%d messages dropped, want %d", n, len(frames))
			}
			wantCounts(t, &q, 5, 5, 0)
		})
	}
}

// drop counts the messages it drops: those that have not left whole and have not
// been withdrawn.
func TestDrop(t *testing.T) {
	var q sendQueue
	if n := q.drop(); n != 0 {
		t.Errorf("%d messages of an empty queue", n)
	}
	for range 5 {
		q.append(1, []byte("x"))
	}
	q.appendLarge(2, content(2, largeSize))
	q.append(3, nil)
	q.withdraw(1, errTaken)
	q.advance(2*(wire.HeaderSize+1) + 3) // two, and a part of the third
	if n := q.drop(); n != 4 {
		t.Errorf("%d messages, want 4", n)
	}
	wantCounts(t, &q, 7, 7, 0)
	q.append(4, nil) // nothing of the next is taken
	if q.off != 0 {
		t.Errorf("%d bytes of the next are taken", q.off)
	}
	q.advance(wire.HeaderSize)
	wantCounts(t, &q, 8, 8, 0)
}

// dropLarger takes frames out and leaves their places in the count: Flush waits
// for what is around them.
func TestDropLarger(t *testing.T) {
	for _, tt := range []struct {
		sizes   []int
		dropped []int
	}{
		{nil, nil},
		{[]int{10}, nil},
		{[]int{11}, []int{11}},
		{[]int{10, 9, 0}, nil},
		{[]int{11, 12, 13}, []int{11, 12, 13}},
		{[]int{5, 100, 6}, []int{100}},
		{[]int{100, 5, 200}, []int{100, 200}},
		{[]int{5, 30_000, 30_001, 6, 30_000, 7, 30_003}, []int{30_000, 30_001, 30_000, 30_003}},
	} {
		var q sendQueue
		var want []byte
		cost, left := 0, 0
		for i, size := range tt.sizes {
			q.append(i+1, content(i, size))
			if size <= 10 {
				want = append(want, plainFrame(uint32(i+1), content(i, size))...)
				cost += size + messageCost
				left++
			}
		}
		if dropped := q.dropLarger(10); !slices.Equal(dropped, tt.dropped) {
			t.Errorf("%v: dropped %v, want %v", tt.sizes, dropped, tt.dropped)
		}
		wantCounts(t, &q, uint64(len(tt.sizes)), 0, cost)
		if got := queued(q.segs[q.head:], 0); !bytes.Equal(got, want) {
			t.Fatalf("%v: %d bytes are left, want %d", tt.sizes, len(got), len(want))
		}
		if len(want) > 0 {
			q.advance(len(want) - 1)
			checkQueue(t, &q)
			if q.sentSeq >= q.queuedSeq {
				t.Fatalf("%v: all has been sent, says the count, before the last byte", tt.sizes)
			}
		}
		q.advance(min(len(want), 1))
		wantCounts(t, &q, uint64(len(tt.sizes)), uint64(len(tt.sizes)), 0)
		if n := q.drop(); n != 0 {
			t.Errorf("%v: %d messages are left", tt.sizes, n)
		}
	}
}

// A frame that other queues have too does not change when others are dropped
// here, nor does a chunk that has been given back.
func TestDropLargerCopies(t *testing.T) {
	var q sendQueue
	q.append(1, content(1, 100))
	q.append(2, content(2, 5))
	body := q.segs[0].body
	before := bytes.Clone(body)
	q.dropLarger(10)
	if !bytes.Equal(body, before) {
		t.Error("the memory of the segment was changed")
	}
	q.append(3, content(3, 7)) // which must not go behind another's bytes
	want := slices.Concat(plainFrame(2, content(2, 5)), plainFrame(3, content(3, 7)))
	if got := queued(q.segs, 0); !bytes.Equal(got, want) || !bytes.Equal(body, before) {
		t.Errorf("%q is left, want %q", got, want)
	}
}

// A chunk goes back when its segment has left, and only once.
func TestChunksAreGivenBack(t *testing.T) {
	defer func(s, l *sync.Pool) { smallChunks, chunks = s, l }(smallChunks, chunks)
	made := 0
	countedPool := func(size int) *sync.Pool {
		p := chunkPool(size)
		make := p.New
		p.New = func() any { made++; return make() }
		return p
	}
	smallChunks, chunks = countedPool(smallChunkSize), countedPool(2*largeSize)
	var q sendQueue
	const rounds = 1000
	for i := range rounds {
		for range 3 {
			q.append(1, make([]byte, 3000))
		}
		switch i % 3 {
		case 0:
			q.advance(len(queued(q.segs, 0)))
		case 1:
			q.advance(10)
			q.restart(true, errTaken)
			q.advance(len(queued(q.segs[q.head:], 0)))
		default:
			q.drop()
		}
		wantCounts(t, &q, uint64(3*(i+1)), uint64(3*(i+1)), 0)
	}
	// With the race detector on, a sync.Pool loses some on purpose.
	if made > rounds {
		t.Errorf("%d chunks were made for 2 at a time, %d times", made, rounds)
	}

	// None is in a pool twice.
	seen := make(map[*chunk]bool)
	for _, p := range []*sync.Pool{smallChunks, chunks} {
		p.New = nil
		for k, ok := p.Get().(*chunk); ok; k, ok = p.Get().(*chunk) {
			if seen[k] {
				t.Fatal("a chunk was given back twice")
			}
			if len(k.b) != 0 || k.pool != p {
				t.Fatalf("a chunk of %d bytes was given back, or to another pool", len(k.b))
			}
			seen[k] = true
		}
	}
}

// What has left is forgotten in time, however long the queue is and stays, and an
// empty queue keeps little.
func TestQueueForgets(t *testing.T) {
	var q sendQueue
	frame := plainFrame(1, nil)
	for range 100 {
		q.appendFrame(frame, 0)
	}
	most := 0
	for range 10_000 {
		q.appendFrame(frame, 0)
		q.advance(len(frame))
		checkQueue(t, &q)
		most = max(most, len(q.segs))
	}
	if most > 202 {
		t.Errorf("up to %d segments for 100", most)
	}
	for !q.empty() {
		q.advance(len(frame))
		checkQueue(t, &q)
		for _, s := range q.segs[:cap(q.segs)][len(q.segs):] {
			if s.body != nil {
				t.Fatal("memory is kept behind the queue")
			}
		}
	}
	if q.segs != nil {
		t.Errorf("an empty queue keeps room for %d segments", cap(q.segs))
	}
	q.appendFrame(frame, 0)
	q.advance(len(frame))
	if cap(q.segs) == 0 {
		t.Error("a queue of one segment is allocated every time")
	}
}

// A queueModel is what a sendQueue should come to, without segments.
type queueModel struct {
	frames          []modelFrame
	off             int // bytes of the first that have been taken
	overhead        int
	queuedSeq       uint64
	messages, bytes uint64
}

type modelFrame struct {
	seq     uint64 // from 1
	frame   []byte
	large   *large // nil if the queue has a copy
	dropped bool
}

func (m *queueModel) push(frame []byte, l *large) {
	m.queuedSeq++
	m.frames = append(m.frames, modelFrame{seq: m.queuedSeq, frame: frame, large: l})
	if l == nil {
		m.count(frame)
	}
}

func (m *queueModel) count(frame []byte) {
	m.messages++
	m.bytes += uint64(len(frame) - wire.HeaderSize)
}

// stream returns what is to be sent.
func (m *queueModel) stream() (b []byte) {
	for _, f := range m.frames {
		if !f.dropped {
			b = append(append(b, f.frame...), make([]byte, m.overhead)...)
		}
	}
	return b[m.off:]
}

// advance records that n more bytes have been taken, and returns the large
// messages that have left with them.
func (m *queueModel) advance(n int) (sent []*large) {
	m.off += n
	for len(m.frames) > 0 {
		f := m.frames[0]
		size := len(f.frame) + m.overhead
		if f.dropped {
			size = 0
		}
		if m.off < size {
			break
		}
		m.off -= size
		if f.large != nil && !f.dropped {
			m.count(f.frame)
			sent = append(sent, f.large)
		}
		m.frames = m.frames[1:]
	}
	return sent
}

func (m *queueModel) cost() (cost int) {
	for _, f := range m.frames {
		if !f.dropped && f.large == nil {
			cost += len(f.frame) - wire.HeaderSize + messageCost
		}
	}
	return cost
}

// left returns how many messages are in the queue.
func (m *queueModel) left() (n int) {
	for _, f := range m.frames {
		if !f.dropped {
			n++
		}
	}
	return n
}

// withdraw takes the large message at i back.
func (m *queueModel) withdraw(i int) error {
	f := &m.frames[i]
	if i == 0 && m.off > 0 {
		m.count(f.frame)
		f.large = nil
		return nil
	}
	f.dropped = true
	f.large = nil
	return errTaken
}

func TestQueueAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		testQueueAgainstModel(t, seed)
	}
}

func testQueueAgainstModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	overhead := int(seed%2) * wire.SealOverhead
	q := &sendQueue{overhead: overhead}
	m := &queueModel{overhead: overhead}
	var flight []segment // in flight
	var flying, behind []byte

	add := func() {
		n := int(m.queuedSeq) + 1
		size := []int{0, 1, 2, 50, 70, 500, 1500, smallChunkSize}[r.IntN(8)]
		frame := plainFrame(uint32(n), content(n, size))
		switch {
		case r.IntN(8) == 0:
			q.appendFrame(bytes.Clone(frame), size)
			m.push(frame, nil)
		case r.IntN(6) == 0: // the queue does not ask how large it is
			m.push(frame, q.appendLarge(n, frame[wire.HeaderSize:]))
		default:
			q.append(n, bytes.Clone(frame[wire.HeaderSize:]))
			m.push(frame, nil)
		}
	}
	wantEnd := func(l *large, err error) {
		t.Helper()
		if !l.ended() || l.err != err {
			t.Fatalf("seed %d: a large message has ended: %t, with %v, want %v", seed, l.ended(), l.err, err)
		}
	}
	for step := range 300 {
		switch op := r.IntN(20); {
		case op < 8:
			add()
		case op < 10 && flight == nil && !q.empty():
			flight = q.takeOff()
			flying = queued(flight, overhead)
			behind = nil
			for _, s := range flight {
				behind = append(behind, s.body[:cap(s.body)]...)
			}
		case op < 16 && flight != nil:
			var after []byte
			for _, s := range flight {
				after = append(after, s.body[:cap(s.body)]...)
			}
			if !bytes.Equal(queued(flight, overhead), flying) || !bytes.Equal(after, behind) {
				t.Fatalf("seed %d, step %d: what is in flight has changed", seed, step)
			}
			n := r.IntN(len(flying) - q.off + 1)
			if r.IntN(3) == 0 {
				n = len(flying) - q.off
			}
			q.advance(n)
			flight = nil
			for _, l := range m.advance(n) {
				wantEnd(l, nil)
			}
		case op == 16 && flight == nil:
			// A large message is cancelled.
			for i := range q.segs[q.head:] {
				l := q.segs[q.head+i].large
				if l == nil || r.IntN(2) == 0 {
					continue
				}
				at := slices.IndexFunc(m.frames, func(f modelFrame) bool { return f.large == l })
				q.withdraw(q.head+i, errTaken)
				wantEnd(l, m.withdraw(at))
				break
			}
		case op == 17 && flight == nil && r.IntN(3) == 0:
			// The connection is lost, and there is another.
			resend := r.IntN(2) == 0
			if !resend {
				m.off = 0
			}
			q.restart(resend, errTaken)
			for i := range m.frames {
				if l := m.frames[i].large; l != nil {
					wantEnd(l, m.withdraw(i))
				}
			}
			m.off = 0
			q.advance(0)
			m.advance(0)
			if r.IntN(2) == 0 {
				limit := r.IntN(600)
				var want []int
				for i := range m.frames {
					if size := len(m.frames[i].frame) - wire.HeaderSize; !m.frames[i].dropped && size > limit {
						m.frames[i].dropped = true
						want = append(want, size)
					}
				}
				if got := q.dropLarger(limit); !slices.Equal(got, want) {
					t.Fatalf("seed %d, step %d: dropped %v, want %v", seed, step, got, want)
				}
			}
		case op == 18 && flight == nil && r.IntN(6) == 0:
			for _, f := range m.frames {
				if f.large != nil {
					m.count(f.frame) // as of one that is sent: there is none where drop is used
				}
			}
			if got, want := q.drop(), m.left(); got != want {
				t.Fatalf("seed %d, step %d: dropped %d messages, want %d", seed, step, got, want)
			}
			m.frames, m.off = nil, 0
		}

		checkQueue(t, q)
		want := m.stream()
		if got := queued(q.segs[q.head:], overhead)[q.off:]; !bytes.Equal(got, want) {
			t.Fatalf("seed %d, step %d: %d bytes are queued, want %d", seed, step, len(got), len(want))
		}
		if q.cost != m.cost() || q.messages != m.messages || q.bytes != m.bytes || q.queuedSeq != m.queuedSeq {
			t.Fatalf("seed %d, step %d: cost %d, accepted %d, %d, queued %d; want %d, %d, %d, %d", seed, step,
				q.cost, q.messages, q.bytes, q.queuedSeq, m.cost(), m.messages, m.bytes, m.queuedSeq)
		}
		// A Flush may end late, by frames that are gone, but not early.
		done := m.queuedSeq
		for _, f := range m.frames {
			if !f.dropped {
				done = f.seq - 1
				break
			}
		}
		if q.sentSeq > done || q.empty() && q.sentSeq != q.queuedSeq {
			t.Fatalf("seed %d, step %d: %d frames have been sent, says the count, and %d have", seed, step, q.sentSeq, done)
		}
		for _, f := range m.frames {
			if f.large != nil && f.large.ended() {
				t.Fatalf("seed %d, step %d: a large message that is queued has ended", seed, step)
			}
		}
	}
	q.drop()
	checkQueue(t, q)
}
