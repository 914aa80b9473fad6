package harness

import (
	"testing"
	"time"
)

// messages as one client sends them: warm-up, measured, last.
func messages(client, n int) [][]byte {
	var all [][]byte
	for i := range n {
		p := make([]byte, 64)
		ph := warmup
		if i >= n/2 {
			ph = measured
		}
		number := uint64(i)
		if i == n-1 {
			ph, number = last, uint64(n)
		}
		stamp(p, ph, client, number)
		all = append(all, p)
	}
	return all
}

func finished(t *tally) bool {
	select {
	case <-t.done:
		return true
	case <-time.After(10 * time.Millisecond):
		return false
	}
}

func TestTally(t *testing.T) {
	tally := newTally(&Spec{Kind: Stream, Size: 64, Clients: 2})
	a, b := messages(0, 10), messages(1, 20)
	for i := range b {
		if i < len(a) {
			tally.take(a[i])
		}
		tally.take(b[i])
	}
	r, err := tally.result()
	if err != nil {
		t.Fatal(err)
	}
	if r.Messages != 30 || r.Bytes != 30*64 {
		t.Errorf("%d messages with %d bytes", r.Messages, r.Bytes)
	}
	if f := r.Metrics[Fairness]; f != 4.0/9 { // all but the last of each second half
		t.Errorf("fairness %v", f)
	}
}

func TestTallyAnyOrder(t *testing.T) {
	tally := newTally(&Spec{Kind: Stream, Size: 64, Clients: 1})
	all := messages(0, 10)
	for i := range all {
		tally.take(all[len(all)-1-i])
	}
	if _, err := tally.result(); err != nil {
		t.Error(err)
	}
}

func TestTallyFindsLoss(t *testing.T) {
	tally := newTally(&Spec{Kind: Stream, Size: 64, Clients: 1})
	for i, p := range messages(0, 10) {
		if i != 3 {
			tally.take(p)
		}
	}
	if finished(tally) {
		t.Error("done, though a message is missing")
	}
}

func TestTallyFindsDoubles(t *testing.T) {
	tally := newTally(&Spec{Kind: Stream, Size: 64, Clients: 1})
	all := messages(0, 10)
	all[3] = all[4]
	for _, p := range all {
		tally.take(p)
	}
	if _, err := tally.result(); err == nil {
		t.Error("one message came twice and another never, and result did not notice")
	}
}

func TestStamp(t *testing.T) {
	p := make([]byte, MinSize)
	stamp(p, last, MaxClients-1, 1<<48-1)
	if ph, client, number := readStamp(p); ph != last || client != MaxClients-1 || number != 1<<48-1 {
		t.Error(ph, client, number)
	}
}

func TestQuantile(t *testing.T) {
	s := make([]int, 100)
	for i := range s {
		s[i] = i
	}
	if Quantile(s, 0.5) != 50 || Quantile(s, 0.99) != 99 || Quantile(s, 1) != 99 || Quantile(s[:1], 0.99) != 0 {
		t.Error(Quantile(s, 0.5), Quantile(s, 0.99), Quantile(s, 1), Quantile(s[:1], 0.99))
	}
}
