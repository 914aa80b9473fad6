package bridge

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// limitedLog writes each text once a second at most, and then says how many lines
// of it were left out: what a message may cause must not flood the log.
type limitedLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards last
	last map[string]*limitedLine
}

type limitedLine struct {
	at      time.Time
	leftOut int
}

func (l *limitedLog) warn(text string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	line := l.last[text]
	if line == nil {
		if l.last == nil {
			l.last = make(map[string]*limitedLine)
		}
		line = new(limitedLine)
		l.last[text] = line
	}
	if now.Sub(line.at) < time.Second {
		line.leftOut++
		l.mu.Unlock()
		return
	}
	if line.leftOut > 0 {
		args = append(args, "repeated", line.leftOut)
	}
	line.at, line.leftOut = now, 0
	l.mu.Unlock()
	l.log.Warn(text, args...)
}

// redacted returns NATS URLs without passwords and tokens, also of what is no URL.
func redacted(urls string) string {
	list := strings.Split(urls, ",")
	for i, url := range list {
		scheme, rest, found := strings.Cut(url, "://")
		if !found { // which NATS's client adds
			scheme, rest = "", url
		}
		at := strings.LastIndexByte(rest, '@')
		if at < 0 {
			continue
		}
		login := "xxxxx"
		if user, _, hasPassword := strings.Cut(rest[:at], ":"); hasPassword {
			login = user + ":xxxxx"
		}
		if found {
			login = scheme + "://" + login
		}
		list[i] = login + rest[at:]
	}
	return strings.Join(list, ",")
}
