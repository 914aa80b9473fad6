package harness

import (
	"runtime"
	"syscall"
)

// cost is what this process has used up since it started.
type cost struct {
	allocs float64
	cpu    float64 // seconds, in the kernel too
}

func costNow() cost {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c := cost{allocs: float64(m.Mallocs)}
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		c.cpu = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return c
}

func (c cost) since(before cost) cost {
	return cost{allocs: c.allocs - before.allocs, cpu: c.cpu - before.cpu}
}
