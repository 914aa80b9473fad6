package harness

import "testing"

// received is a client that has received some messages.
type received [][]byte

func (r *received) Receive() ([]byte, error) {
	p := (*r)[0]
	*r = (*r)[1:]
	return p, nil
}

func TestTakeAll(t *testing.T) {
	tally := newTally(&Spec{Kind: Broadcast, Size: 64, Clients: 2})
	for client := range 2 {
		all := received(messages(0, 10)) // the same for all
		if err := tally.takeAll(client, &all); err != nil {
			t.Fatal(err)
		}
	}
	r, err := tally.result()
	if err != nil {
		t.Fatal(err)
	}
	if r.Messages != 20 || r.Bytes != 20*64 {
		t.Errorf("%d messages with %d bytes", r.Messages, r.Bytes)
	}
}

func TestTakeAllFindsLossAndOrder(t *testing.T) {
	for name, change := range map[string]func([][]byte) [][]byte{
		"lost":    func(all [][]byte) [][]byte { return append(all[:3:3], all[4:]...) },
		"the end": func(all [][]byte) [][]byte { return append(all[:8:8], all[9]) },
		"twice":   func(all [][]byte) [][]byte { return append(all[:4:4], all[3:]...) },
		"swapped": func(all [][]byte) [][]byte { all[3], all[4] = all[4], all[3]; return all },
		"short":   func(all [][]byte) [][]byte { all[3] = all[3][:60]; return all },
	} {
		tally := newTally(&Spec{Kind: Broadcast, Size: 64, Clients: 1})
		all := received(change(messages(0, 10)))
		if tally.takeAll(0, &all) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
