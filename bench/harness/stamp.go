package harness

import "encoding/binary"

// A phase is what a message of a stream is for.
type phase uint64

const (
	warmup phase = iota
	measured
	last // its number is how many messages the client sent, this one among them
)

// MaxClients is the most that one client process can have.
const MaxClients = 1 << 14

// MinSize is what the stamp takes at the start of a message.
const MinSize = 8

// The stamp says for which phase, from which client and the how-manieth a
// message is, so that the receiver needs nothing from the library under test but
// the bytes.
func stamp(p []byte, ph phase, client int, number uint64) {
	binary.LittleEndian.PutUint64(p, uint64(ph)<<62|uint64(client)<<48|number)
}

func readStamp(p []byte) (ph phase, client int, number uint64) {
	v := binary.LittleEndian.Uint64(p)
	return phase(v >> 62), int(v >> 48 & (MaxClients - 1)), v & (1<<48 - 1)
}
