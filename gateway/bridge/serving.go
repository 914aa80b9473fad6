package bridge

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// maxAbsent is how many signs of life in a row may reach no requester before its
// request is cancelled: it may be changing from one NATS server to another.
const maxAbsent = 2

// serving is a request from NATS that the server is handling. A goroutine of its
// own, run, waits for the server; a timer sends the signs of life.
type serving struct {
	*exposer
	msg     *nats.Msg
	msgType int
	id      uint64

	ctx context.Context // ends with the connection to the server, a cancel, and the gateway
	end context.CancelCauseFunc

	window window      // of parts
	absent atomic.Bool // nothing subscribed to the reply subject when something was sent
	alive  *time.Timer // nil if the requester wants no signs of life

	aliveMu  sync.Mutex // guards what follows
	interval time.Duration
	missed   int
	ended    bool
}

func (r *serving) run() {
	defer r.forget(r)
	defer r.stopAlive()
	defer r.end(nil)
	if r.msg.Header.Get(headerParts) != "" {
		r.runParts()
		return
	}
	m, err := r.client.Request(r.ctx, r.msgType, r.msg.Data)
	if err != nil {
		r.fail(err)
		return
	}
	if err := r.respond(newReply(r.msg.Reply, r.msgType, m.MsgType, m.Data)); err != nil {
		r.notSent(err, len(m.Data))
		return
	}
	m.Release()
	r.counters.replies.Add(1)
}

// runParts is run for a reply in parts. It takes no further part of the server
// while the requester has not taken those before: so the server is held up, and, once
// the client's inbox is full, so is all else that the server sends to this gateway. A
// requester that takes nothing at all therefore loses its reply after a while.
func (r *serving) runParts() {
	n := 0
	for m, err := range r.client.RequestParts(r.ctx, r.msgType, r.msg.Data) {
		if err != nil {
			r.fail(err)
			return
		}
		if err := r.window.wait(r.ctx, stallIntervals*r.config.KeepAlive); err != nil {
			r.fail(errors.Join(err, ipc.ErrNoReply)) // the server has handled it
			return
		}
		n++
		r.window.add(len(m.Data))
		part := newReply(r.msg.Reply, r.msgType, m.MsgType, m.Data)
		if part.Header == nil {
			part.Header = make(nats.Header)
		}
		part.Header.Set(headerPart, strconv.Itoa(n))
		part.Reply = r.progress(n)
		if err := r.respond(part); err != nil {
			r.notSent(err, len(m.Data))
			return
		}
		m.Release()
		r.counters.parts.Add(1)
	}
	_ = r.respond(&nats.Msg{
		Subject: r.msg.Reply,
		Header:  nats.Header{headerEnd: {strconv.Itoa(n)}},
	})
	r.counters.replies.Add(1)
}

// progress returns the subject by which the requester says that it has taken n
// parts.
func (r *serving) progress(n int) string {
	return r.inbox + "." + strconv.FormatUint(r.id, 10) + "." + strconv.Itoa(n)
}

// fail answers that there will be no reply, or no further part, for the reason
// err. A requester that has cancelled the request waits for no answer.
func (r *serving) fail(err error) {
	cause := context.Cause(r.ctx)
	if errors.Is(cause, errCancelled) {
		r.counters.cancelled.Add(1)
		return
	}
	var answer *ipc.ReplyError
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, errStalled):
		answer = errorf(CodeNoReply, "%v", err)
	case errors.Is(err, ipc.ErrNoReply) && cause != nil:
		answer = errorf(CodeNoReply, "no reply: %v", cause)
	case errors.Is(err, ipc.ErrNoReply) && errors.Is(err, ipc.ErrNotConnected):
		answer = errorf(CodeNoReply, "no reply: %v", errServerLost)
	case errors.Is(err, ipc.ErrNoReply):
		answer = errorf(CodeNoReply, "no reply")
	case errors.Is(err, ipc.ErrMsgTooLarge):
		answer = errorf(CodeTooLarge, "the server takes no request of %d bytes", len(r.msg.Data))
	case errors.Is(err, ipc.ErrNoRequests):
		answer = errorf(CodeRefused, "the server knows no requests")
	case cause != nil:
		answer = errorf(CodeNoServer, "%v", cause)
	default:
		answer = errorf(CodeNoServer, "%v", errServerLost)
	}
	r.counters.countError(answer.Code)
	r.log.Debug("request without a reply", "type", r.msgType, "error", err)
	if err := r.respond(newError(r.msg.Reply, answer)); err != nil {
		r.notSent(err, len(answer.Text))
	}
}

// notSent answers that NATS did not take a reply, or a part, of n bytes.
func (r *serving) notSent(err error, n int) {
	if !isTooLarge(err) {
		return // nothing can be sent
	}
	answer := errorf(CodeReplyTooLarge, "NATS takes no reply of %d bytes: its limit is %d", n, r.nc.MaxPayload())
	r.counters.countError(answer.Code)
	_ = r.respond(newError(r.msg.Reply, answer))
}

// keepAlive starts the signs of life, if the requester wants them.
func (r *serving) keepAlive() {
	ms, err := strconv.ParseInt(r.msg.Header.Get(headerAlive), 10, 64)
	if err != nil || ms <= 0 {
		return
	}
	ms = min(ms, math.MaxInt64/int64(time.Millisecond))
	r.aliveMu.Lock()
	defer r.aliveMu.Unlock()
	r.interval = max(time.Duration(ms)*time.Millisecond, minKeepAlive)
	r.alive = time.AfterFunc(r.interval, r.showAlive)
}

// showAlive is what the timer does.
func (r *serving) showAlive() {
	r.aliveMu.Lock()
	defer r.aliveMu.Unlock()
	if r.ended {
		return
	}
	if !r.absent.Swap(false) {
		r.missed = 0
	} else if r.missed++; r.missed == maxAbsent {
		r.end(errCancelled)
		return
	}
	_ = r.respond(&nats.Msg{
		Subject: r.msg.Reply,
		Reply:   r.progress(0),
		Header:  nats.Header{headerAlive: {"1"}},
	})
	r.alive.Reset(r.interval)
}

func (r *serving) stopAlive() {
	r.aliveMu.Lock()
	defer r.aliveMu.Unlock()
	r.ended = true
	if r.alive != nil {
		r.alive.Stop()
	}
}

// onProgress takes what requesters say about parts and signs of life: how far they
// are, or by NATS that they are not there.
func (e *exposer) onProgress(m *nats.Msg) {
	tokens := strings.Split(strings.TrimPrefix(m.Subject, e.inbox+"."), ".")
	id, err := strconv.ParseUint(tokens[0], 10, 64)
	if err != nil || len(tokens) != 2 {
		return
	}
	e.mu.Lock()
	r := e.byID[id]
	e.mu.Unlock()
	if r == nil {
		return
	}
	if isNoResponders(m) {
		r.isAbsent()
		return
	}
	if n, err := strconv.Atoi(tokens[1]); err == nil {
		r.window.taken(n)
	}
}

// isAbsent records that the requester was not there.
func (r *serving) isAbsent() {
	r.absent.Store(true)
	r.aliveMu.Lock()
	defer r.aliveMu.Unlock()
	if r.alive == nil {
		r.end(errCancelled)
	}
}
