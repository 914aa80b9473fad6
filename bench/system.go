package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// system is where a report comes from.
type system struct {
	Go, OS, Arch string
	Kernel       string
	CPU          string
	Cores        int
}

func thisSystem() system {
	return system{
		Go:     runtime.Version(),
		OS:     runtime.GOOS,
		Arch:   runtime.GOARCH,
		Kernel: output("uname", "-sr"),
		CPU:    cpuModel(),
		Cores:  runtime.NumCPU(),
	}
}

func (s system) String() string {
	return fmt.Sprintf("%s %s/%s, %s, %s, %s.", s.Go, s.OS, s.Arch, s.CPU, plural(s.Cores, "core"), s.Kernel)
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return output("sysctl", "-n", "machdep.cpu.brand_string")
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "CPU unknown"
}

// output of a program, or "unknown": nothing depends on it.
func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
