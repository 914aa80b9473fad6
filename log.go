package ipc

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"
)

// debugVariable is the environment variable that overrides LogLevel.
const debugVariable = "IPC_DEBUG"

// newLogger returns given, or a logger to standard error at the level that
// IPC_DEBUG or else level names. owner is the config that level comes from.
func newLogger(given *slog.Logger, owner, level string) (*slog.Logger, error) {
	min, ok := parseLevel(level)
	if !ok {
		return nil, invalid("%s.LogLevel %q is none of debug, info, warn and error", owner, level)
	}
	if given != nil {
		return given, nil
	}
	v, set := os.LookupEnv(debugVariable)
	if !set || v == "" {
		return stderrLogger(min), nil
	}
	if v == "true" {
		v = "debug"
	}
	override, ok := parseLevel(v)
	if !ok {
		// It was set to see something, so the warning is shown whatever the
		// level.
		stderrLogger(slog.LevelWarn).Warn("ipc: environment variable ignored: want true, debug, info, warn or error",
			"name", debugVariable, "value", v)
		return stderrLogger(min), nil
	}
	return stderrLogger(override), nil
}

func stderrLogger(min slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: min}))
}

// parseLevel knows the four levels by name, and the default by its absence.
func parseLevel(s string) (slog.Level, bool) {
	switch s {
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn":
		return slog.LevelWarn, true
	case "error", "":
		return slog.LevelError, true
	}
	return 0, false
}

// logEvent logs one line about the session called socket. It costs nothing
// where the level is off.
func logEvent(log *slog.Logger, level slog.Level, msg, socket string, client int, attrs ...slog.Attr) {
	ctx := context.Background()
	if !log.Enabled(ctx, level) {
		return
	}
	all := append(make([]slog.Attr, 0, len(attrs)+2), slog.String("socket", socket))
	if client != 0 {
		all = append(all, slog.Int("client", client))
	}
	log.LogAttrs(ctx, level, "ipc: "+msg, append(all, attrs...)...)
}

// throttle keeps what peers can provoke from filling the log: it admits a few
// lines a second, and counts the others.
type throttle struct {
	mu       sync.Mutex
	start    time.Time // of the current second
	admitted int       // in it
	held     int       // held back since the last line that was admitted
}

const linesPerSecond = 2

// admit reports whether a line may be logged now, and how many were held back
// since the one before it.
func (t *throttle) admit(now time.Time) (held int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.start) >= time.Second {
		t.start = now
		t.admitted = 0
	}
	if t.admitted == linesPerSecond {
		t.held++
		return 0, false
	}
	t.admitted++
	held = t.held
	t.held = 0
	return held, true
}
