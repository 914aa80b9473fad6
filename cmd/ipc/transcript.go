package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// transcript prints conversations.
type transcript struct {
	data, json bool

	colors bool
	fail   context.CancelCauseFunc // called if it cannot be printed
	mu     sync.Mutex              // one line at a time
}

func (t *transcript) start(fail context.CancelCauseFunc) {
	t.colors = colored(os.Stdout)
	t.fail = fail
}

// lineJSON is a line of a transcript as -json shows it.
type lineJSON struct {
	Time    time.Time `json:"time"`
	Client  int       `json:"client"`
	From    string    `json:"from,omitempty"` // "client" or "server"
	Kind    string    `json:"kind"`
	ID      uint64    `json:"id,omitempty"` // of the request
	Type    uint32    `json:"type,omitempty"`
	Code    uint32    `json:"code,omitempty"`
	Parts   bool      `json:"parts,omitempty"` // of a request that may be answered in parts
	Size    *int      `json:"size,omitempty"`
	Seconds *float64  `json:"seconds,omitempty"` // since the request
	PID     int       `json:"pid,omitempty"`
	UID     *uint32   `json:"uid,omitempty"`
	Error   string    `json:"error,omitempty"`
	bytesJSON

	took time.Duration // Seconds
	raw  []byte        // the data, which -data prints
}

// print prints a line.
func (t *transcript) print(l *lineJSON) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.json {
		if t.data && l.Size != nil {
			l.bytesJSON = newBytesJSON(l.raw)
		}
		err = writeJSON(os.Stdout, l)
	} else {
		_, err = fmt.Println(t.text(l))
	}
	if err != nil {
		t.fail(err)
	}
}

var kindColors = map[string]color{"request": cyan, "reply": green, "part": green, "end": green, "error": red, "no reply": red, "cancel": yellow}

// text returns a line for people.
func (t *transcript) text(l *lineJSON) string {
	arrow := map[string]string{"client": "->", "server": "<-"}[l.From]
	kind := l.Kind
	if l.ID != 0 {
		kind += fmt.Sprintf(" #%d", l.ID)
	}
	s := fmt.Sprintf("%s  %d %-2s %s", paint(t.colors, dim, clock(l.Time)), l.Client, arrow,
		paint(t.colors, kindColors[l.Kind], fmt.Sprintf("%-13s", kind)))
	if l.Type != 0 {
		s += fmt.Sprintf("  type %d", l.Type)
	}
	if l.Code != 0 {
		s += fmt.Sprintf("  code %d", l.Code)
	}
	if l.Size != nil {
		s += fmt.Sprintf("  %d bytes", *l.Size)
	}
	if l.Parts {
		s += "  parts welcome"
	}
	if l.Seconds != nil {
		s += "  " + short(l.took).String()
	}
	if l.UID != nil {
		s += fmt.Sprintf("  pid %d uid %d", l.PID, *l.UID)
	}
	if l.Error != "" {
		s += "  " + printable(l.Error)
	}
	if t.data && l.Size != nil {
		s += "  " + strconv.Quote(string(l.raw))
	}
	return strings.TrimRight(s, " ")
}

// joined prints that the client has come.
func (c *conversation) joined(cred peercred.Cred, err error) {
	l := &lineJSON{Time: time.Now(), Client: c.number, From: toServer.from(), Kind: "joined"}
	if err == nil {
		l.PID, l.UID = cred.PID, &cred.UID
	}
	c.out.print(l)
}

// left prints that one side has gone, and why if it was not of its own accord.
func (c *conversation) left(d direction, err error) {
	l := &lineJSON{Time: time.Now(), Client: c.number, From: d.from(), Kind: "left"}
	if err != nil {
		l.Error = err.Error()
	}
	c.out.print(l)
}

// record prints a frame. Announcements and what receivers ignore are not printed.
func (c *conversation) record(d direction, msgType int, data []byte) {
	l := &lineJSON{Time: time.Now(), Client: c.number, From: d.from(), Kind: "message", Type: uint32(msgType), raw: data}
	if msgType == wire.ControlType {
		f, err := wire.ParseControl(data)
		if err != nil || f.Kind == 0 || f.Kind == wire.Announce {
			return
		}
		c.recordControl(l, d, &f)
	}
	if l.Kind != "cancel" && l.Kind != "end" && l.Kind != "no reply" {
		size := len(l.raw)
		l.Size = &size
	}
	c.out.print(l)
}

// recordControl fills in l for a control frame.
func (c *conversation) recordControl(l *lineJSON, d direction, f *wire.Control) {
	l.ID, l.Type, l.raw = f.ID, f.N, f.Payload
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.began[1-d] // the requests that the side has got which now speaks
	switch f.Kind {
	case wire.Request:
		l.Kind = "request"
		l.Parts = f.Flags&wire.PartsWelcome != 0
		c.began[d][f.ID] = l.Time
		return
	case wire.Cancel:
		l.Kind, l.Type = "cancel", 0
		return
	case wire.Part:
		l.Kind = "part"
		l.setTook(asked[f.ID])
		return
	case wire.Reply:
		l.Kind = "reply"
		if f.N == 0 {
			l.Kind = "end"
		}
	case wire.Error:
		l.Kind, l.Type, l.Code = "error", 0, f.N
		if f.N == 0 {
			l.Kind = "no reply"
		}
	}
	l.setTook(asked[f.ID])
	delete(asked, f.ID)
}

// setTook sets the time that has passed since began, if that is known.
func (l *lineJSON) setTook(began time.Time) {
	if began.IsZero() {
		return
	}
	l.took = l.Time.Sub(began)
	seconds := l.took.Seconds()
	l.Seconds = &seconds
}
