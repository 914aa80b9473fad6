package bridge

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// silentIntervals is for how many times KeepAlive nothing may come back for a
// request.
const silentIntervals = 3

// maxQuick is the size of a reply that onReply hands over itself.
const maxQuick = 64 << 10

// asking is a request of a local client that is on NATS.
//
//	waiting ──something has come──► busy ──the last message──► ended
//	   ▲                             │
//	   └──── all is handed over ─────┘     the client is gone, or silence: ended
//
// A small reply is handed over by the goroutine that has received it, if the client
// has taken everything before, so that nothing can hold that goroutine up. For the
// rest there is a goroutine of the request's own, run, while it is busy.
type asking struct {
	*joiner
	client  *ipc.Server
	m       *ipc.Message // a clone
	msgType int
	parts   bool   // are welcome
	token   string // the last of its reply subject

	mu        sync.Mutex  // guards what follows, up to the blank line
	come      []*nats.Msg // and was not handed over yet
	comeBytes int         // of its data
	busy      bool
	ended     bool
	heard     bool // anything
	heardAt   time.Time
	silence   *time.Timer // calls checkSilence
	unwatch   func() bool // stops the call of clientGone

	// For what is busy: how many parts have come, and of which number and size since
	// the last word to the other side.
	count, newParts, newBytes int
}

func (a *asking) replySubject() string { return a.inbox + "." + a.token }

// publish sends the request.
func (a *asking) publish() error {
	header := nats.Header{headerAlive: {strconv.FormatInt(a.config.KeepAlive.Milliseconds(), 10)}}
	if a.parts {
		header[headerParts] = []string{"1"}
	}
	err := a.nc.PublishMsg(&nats.Msg{
		Subject: a.subjects.typed(a.msgType),
		Reply:   a.replySubject(),
		Header:  header,
		Data:    a.m.Data,
	})
	n := len(a.m.Data)
	switch {
	case err == nil:
		a.m.Data = nil
		return nil
	case isTooLarge(err):
		return errorf(CodeTooLarge, "NATS takes no request of %d bytes: its limit is %d, with headers", n, a.nc.MaxPayload())
	default:
		return errorf(CodeNotConnected, "not published: %v", err)
	}
}

// watch begins to wait for the client's end and for silence.
func (a *asking) watch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heardAt = time.Now()
	a.silence = time.AfterFunc(a.silenceLimit(), a.checkSilence)
	a.unwatch = context.AfterFunc(a.m.Context(), a.clientGone)
}

func (a *asking) silenceLimit() time.Duration { return silentIntervals * a.config.KeepAlive }

// end ends the request: it calls last, which answers the client, unless the request
// has ended before. The client's context ends with the answer; nothing watches it any
// more. The gateway waits for last when it is closed.
func (a *asking) end(last func()) {
	a.mu.Lock()
	first := !a.ended
	a.ended = true
	a.come = nil
	a.mu.Unlock()
	if !first {
		return
	}
	a.silence.Stop()
	a.unwatch()
	last()
	a.forget(a)
}

// add takes what has come back. If the other side sends more parts than the window
// allows, they are dropped, so that memory stays bounded: that ends the reply.
func (a *asking) add(m *nats.Msg) {
	a.mu.Lock()
	a.heard, a.heardAt = true, time.Now()
	if m.Header.Get(headerAlive) != "" || a.ended {
		a.mu.Unlock()
		return
	}
	if !a.busy && a.isQuick(m) {
		a.mu.Unlock()
		a.take(m)
		return
	}
	if len(a.come) < 2*windowParts && a.comeBytes < 2*windowBytes {
		a.come = append(a.come, m)
		a.comeBytes += len(m.Data)
	}
	if !a.busy {
		a.busy = true
		go a.run()
	}
	a.mu.Unlock()
}

// isQuick reports whether m is a reply that can be handed over without waiting: the
// client's outbox is empty.
func (a *asking) isQuick(m *nats.Msg) bool {
	return len(m.Data) <= maxQuick && m.Header.Get(headerPart) == "" && a.client.Flush(expired) == nil
}

// expired is a context that has ended.
var expired = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// run hands over what has come until there is no more.
func (a *asking) run() {
	for {
		a.mu.Lock()
		come := a.come
		a.come, a.comeBytes = nil, 0
		if len(come) == 0 {
			a.busy, a.heardAt = false, time.Now()
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		for _, m := range come {
			a.take(m)
		}
	}
}

// clientGone is called when the client has given the request up, or is gone.
func (a *asking) clientGone() {
	a.end(func() {
		a.cancel()
		a.counters.cancelled.Add(1)
	})
}

// checkSilence is what the timer does.
func (a *asking) checkSilence() {
	a.mu.Lock()
	rest := a.silenceLimit() - time.Since(a.heardAt)
	if a.busy {
		rest = a.silenceLimit() // it is the client that is slow
	}
	if rest > 0 && !a.ended {
		a.silence.Reset(rest)
	}
	a.mu.Unlock()
	if rest <= 0 {
		a.fail(errorf(CodeNoReply, "no sign of a reply for %v", a.silenceLimit()))
	}
}

// deny ends the request, which NATS does not permit.
func (a *asking) deny() {
	a.mu.Lock()
	heard := a.heard // then it was another one
	a.mu.Unlock()
	if !heard {
		a.endWith(errorf(CodeDenied, "NATS does not permit to publish %s", a.subjects.typed(a.msgType)))
	}
}

// take hands over one message that has come back, in vain after the end.
func (a *asking) take(m *nats.Msg) {
	h := m.Header
	switch {
	case len(h) == 0:
	case isNoResponders(m):
		a.endWith(errorf(CodeNoServer, "no machine exposes %s", a.config.Name))
		return
	case h.Get(headerEnd) != "":
		a.takeEnd(h.Get(headerEnd))
		return
	case h.Get(headerErrorCode) != "" || h.Get(headerErrorText) != "":
		a.endWith(replyError(m))
		return
	}
	msgType, err := replyType(m, a.msgType)
	switch {
	case err != nil:
		a.fail(errorf(CodeNoReply, "%v", err))
	case h.Get(headerPart) != "":
		a.takePart(m, h.Get(headerPart), msgType)
	default:
		a.end(func() { a.answered(a.m.Reply(msgType, m.Data), len(m.Data)) })
	}
}

// endWith ends the request with an error, about which the other side knows.
func (a *asking) endWith(e *ipc.ReplyError) {
	a.end(func() { a.answerError(a.m, e) })
}

// takePart hands over a part, and says so after some of them.
func (a *asking) takePart(m *nats.Msg, number string, msgType int) {
	if number != strconv.Itoa(a.count+1) {
		a.fail(errorf(CodeNoReply, "part %d of the reply was lost", a.count+1))
		return
	}
	if err := a.m.ReplyPart(msgType, m.Data); err != nil {
		a.end(func() {
			a.cancel()
			a.answered(err, len(m.Data))
		})
		return
	}
	a.count++
	a.counters.parts.Add(1)
	a.newParts++
	a.newBytes += len(m.Data)
	if m.Reply != "" && (a.newParts >= ackParts || a.newBytes >= ackBytes) {
		a.newParts, a.newBytes = 0, 0
		_ = a.nc.Publish(m.Reply, nil) // if it is lost, so will be the parts
	}
}

// takeEnd ends a reply in parts.
func (a *asking) takeEnd(number string) {
	if number != strconv.Itoa(a.count) {
		a.fail(errorf(CodeNoReply, "the reply has %s parts, and %d have come", number, a.count))
		return
	}
	a.end(func() { a.answered(a.m.ReplyEnd(), 0) })
}

// answered is called with the library's answer to a reply, or a part, of n bytes. If
// that is refused, the client gets an error instead.
func (a *asking) answered(err error, n int) {
	switch {
	case err == nil:
		a.counters.replies.Add(1)
	case errors.Is(err, ipc.ErrMsgTooLarge):
		a.answerError(a.m, errorf(CodeReplyTooLarge, "a reply of %d bytes exceeds the limit of this machine's gateway", n))
	case errors.Is(err, ipc.ErrNotAsked):
		a.answerError(a.m, errorf(CodeNoReply, "the reply is in parts, and one was asked for"))
	default: // the client has given it up, or is gone
		a.counters.cancelled.Add(1)
	}
}

// fail ends the request here and there, for the reason err.
func (a *asking) fail(err error) {
	a.end(func() {
		a.cancel()
		a.answerError(a.m, err)
	})
}

// cancel tells the other side that the request is given up.
func (a *asking) cancel() {
	_ = a.nc.Publish(a.subjects.cancel(a.replySubject()), nil)
}
