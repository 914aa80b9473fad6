package bridge

import "sync/atomic"

// Stats are the counts of a gateway since its start. In is from NATS, out is to
// NATS.
type Stats struct {
	// Connected says whether there is a connection to NATS; Serving, of Expose,
	// whether the server is there and requests for it are taken.
	Connected, Serving bool

	// InFlight is how many requests wait for the end of their reply now.
	InFlight int64

	// Messages that need no reply: to the server, and what it sends unasked.
	MessagesIn, MessagesOut uint64

	// Requests, and what came back: replies, parts of replies, errors of the
	// server, and errors of a gateway.
	Requests, Replies, Parts, Errors, GatewayErrors uint64

	// Cancelled counts the requests that the requester gave up or was lost with.
	Cancelled uint64

	// Dropped counts messages that were lost for a reason that the gateway knows;
	// the log says which. SlowConsumer counts those that NATS's client has dropped
	// because the gateway did not take them fast enough, requests among them.
	Dropped, SlowConsumer uint64

	// Reconnects counts the connections to NATS after the first.
	Reconnects uint64
}

// counters are the Stats while they are counted.
type counters struct {
	inFlight                                        atomic.Int64
	messagesIn, messagesOut                         atomic.Uint64
	requests, replies, parts, errors, gatewayErrors atomic.Uint64
	cancelled, dropped, reconnects                  atomic.Uint64
}

// Stats returns the counts.
func (g *Gateway) Stats() Stats {
	c := &g.counters
	return Stats{
		Connected:     g.nc.IsConnected(),
		Serving:       g.serving.Load(),
		InFlight:      c.inFlight.Load(),
		MessagesIn:    c.messagesIn.Load(),
		MessagesOut:   c.messagesOut.Load(),
		Requests:      c.requests.Load(),
		Replies:       c.replies.Load(),
		Parts:         c.parts.Load(),
		Errors:        c.errors.Load(),
		GatewayErrors: c.gatewayErrors.Load(),
		Cancelled:     c.cancelled.Load(),
		Dropped:       c.dropped.Load(),
		SlowConsumer:  g.slow.total(),
		Reconnects:    c.reconnects.Load(),
	}
}

// countError counts an error that answers a request.
func (c *counters) countError(code int) {
	if code >= CodeNoReply {
		c.gatewayErrors.Add(1)
	} else {
		c.errors.Add(1)
	}
}
