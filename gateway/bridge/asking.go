package bridge

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// silentIntervals is for how many times KeepAlive nothing may come back for a
// request.
const silentIntervals = 3

// asking is a request of a local client that is on NATS. A goroutine of its own,
// run, waits for what comes back, and hands it over to the client.
type asking struct {
	*joiner
	m       *ipc.Message // a clone
	msgType int
	parts   bool   // are welcome
	token   string // the last of its reply subject

	wake chan struct{} // something has come

	mu        sync.Mutex  // guards what follows
	come      []*nats.Msg // and was not handed over yet
	comeBytes int         // of its data
	refused   bool        // NATS does not permit the request

	// Of run alone: whether anything has come, how many parts, and of which number
	// and size since the last word to the other side.
	heard                     bool
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

// add takes what has come back. If the other side sends more parts than the window
// allows, they are dropped, so that memory stays bounded: that ends the reply.
func (a *asking) add(m *nats.Msg) {
	a.mu.Lock()
	if len(a.come) < 2*windowParts && a.comeBytes < 2*windowBytes {
		a.come = append(a.come, m)
		a.comeBytes += len(m.Data)
	}
	a.mu.Unlock()
	a.wakeUp()
}

// hasCome reports whether something has come back that was not handed over.
func (a *asking) hasCome() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.come) > 0
}

// deny ends the request, which NATS does not permit.
func (a *asking) deny() {
	a.mu.Lock()
	a.refused = true
	a.mu.Unlock()
	a.wakeUp()
}

func (a *asking) wakeUp() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *asking) run() {
	defer a.forget(a)
	ctx := a.m.Context()
	silence := silentIntervals * a.config.KeepAlive
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case <-a.wake:
			if a.takeAll() {
				return
			}
			timer.Reset(silence)
		case <-ctx.Done():
			a.fail(ctx.Err())
			return
		case <-timer.C:
			if a.hasCome() {
				continue
			}
			a.fail(errorf(CodeNoReply, "no sign of a reply for %v", silence))
			return
		}
	}
}

// takeAll hands over what has come, and reports whether that was the end.
func (a *asking) takeAll() (over bool) {
	a.mu.Lock()
	come, refused := a.come, a.refused
	a.come, a.comeBytes = nil, 0
	a.mu.Unlock()
	for _, m := range come {
		a.heard = true
		over, err := a.take(m)
		if err != nil {
			a.fail(err)
		}
		if over || err != nil {
			return true
		}
	}
	if refused && !a.heard {
		a.answerError(a.m, errorf(CodeDenied, "NATS does not permit to publish %s", a.subjects.typed(a.msgType)))
		return true
	}
	return false
}

// take hands over one message that has come back. over says that it was the last.
func (a *asking) take(m *nats.Msg) (over bool, err error) {
	h := m.Header
	if len(h) > 0 {
		switch {
		case h.Get(headerAlive) != "":
			return false, nil
		case isNoResponders(m):
			a.answerError(a.m, errorf(CodeNoServer, "no machine exposes %s", a.config.Name))
			return true, nil
		case h.Get(headerEnd) != "":
			return true, a.takeEnd(h.Get(headerEnd))
		}
		if e := replyError(m); e != nil {
			a.answerError(a.m, e)
			return true, nil
		}
	}
	msgType, err := replyType(m, a.msgType)
	if err != nil {
		return true, errorf(CodeNoReply, "%v", err)
	}
	if part := h.Get(headerPart); part != "" {
		return false, a.takePart(m, part, msgType)
	}
	if err := a.m.Reply(msgType, m.Data); err != nil {
		return true, a.notTaken(err, len(m.Data))
	}
	a.counters.replies.Add(1)
	return true, nil
}

// takePart hands over a part, and says so when a quarter of the window has been
// taken.
func (a *asking) takePart(m *nats.Msg, number string, msgType int) error {
	if number != strconv.Itoa(a.count+1) {
		return errorf(CodeNoReply, "part %d of the reply was lost", a.count+1)
	}
	if err := a.m.ReplyPart(msgType, m.Data); err != nil {
		return a.notTaken(err, len(m.Data))
	}
	a.count++
	a.counters.parts.Add(1)
	a.newParts++
	a.newBytes += len(m.Data)
	if m.Reply != "" && (a.newParts >= windowParts/4 || a.newBytes >= windowBytes/4) {
		a.newParts, a.newBytes = 0, 0
		_ = a.nc.Publish(m.Reply, nil) // if it is lost, so will be the parts
	}
	return nil
}

// takeEnd ends a reply in parts.
func (a *asking) takeEnd(number string) error {
	if number != strconv.Itoa(a.count) {
		return errorf(CodeNoReply, "the reply has %s parts, and %d have come", number, a.count)
	}
	if err := a.m.ReplyEnd(); err != nil {
		return a.notTaken(err, 0)
	}
	a.counters.replies.Add(1)
	return nil
}

// notTaken returns what to answer instead of a reply of n bytes that the library
// refuses with err.
func (a *asking) notTaken(err error, n int) error {
	if errors.Is(err, ipc.ErrMsgTooLarge) {
		return errorf(CodeReplyTooLarge, "a reply of %d bytes exceeds the limit of this machine's gateway", n)
	}
	return fmt.Errorf("no reply to the client: %w", err)
}

// fail ends the request here and there, for the reason err, or because the client
// has given it up.
func (a *asking) fail(err error) {
	a.cancel()
	if a.m.Context().Err() != nil {
		a.counters.cancelled.Add(1)
		return
	}
	a.answerError(a.m, err)
}

// cancel tells the other side that the request is given up.
func (a *asking) cancel() {
	_ = a.nc.Publish(a.subjects.cancel(a.replySubject()), nil)
}
