package harness

// TwoBuffers copies messages for a library whose Write returns when another
// goroutine has taken the message, before it was sent: by the time that the next
// Write returns, the one before was sent.
type TwoBuffers struct {
	bufs [2][]byte
	next int
}

// Of returns a copy of p that is valid until the next but one call.
func (b *TwoBuffers) Of(p []byte) []byte {
	b.next ^= 1
	b.bufs[b.next] = append(b.bufs[b.next][:0], p...)
	return b.bufs[b.next]
}
