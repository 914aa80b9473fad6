package bridge

// maxRecent is how many cancels are kept that came before their request: the two
// are on different subscriptions. Most of them are for requests that other machines
// have, or that have ended.
const maxRecent = 1024

// recent is a set of the last strings that were added to it.
type recent struct {
	set  map[string]struct{}
	ring []string
	next int // the place in ring to use again
}

func (r *recent) add(s string) {
	if _, ok := r.set[s]; ok {
		return
	}
	if r.set == nil {
		r.set = make(map[string]struct{})
	}
	r.set[s] = struct{}{}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, s)
		return
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = s
	r.next = (r.next + 1) % maxRecent
}

// take removes s, and reports whether it was there.
func (r *recent) take(s string) bool {
	_, ok := r.set[s]
	delete(r.set, s)
	return ok
}
