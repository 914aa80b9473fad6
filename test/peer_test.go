package ipc_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestSameUser(t *testing.T) {
	if runtime.GOOS == "windows" {
		own := ourselves(t).SID
		for sid, want := range map[string]bool{own: true, "S-1-5-18": true, "S-1-5-32-544": true, own + "1": false, "": false} {
			wantSameUser(t, ipc.Peer{PID: 1, UID: 1<<32 - 1, GID: 1<<32 - 1, SID: sid}, want)
		}
		return
	}
	own := uint32(os.Geteuid())
	for uid, want := range map[uint32]bool{own: true, 0: true, own + 1: false, 1<<32 - 1: false} {
		wantSameUser(t, ipc.Peer{PID: 1, UID: uid}, want)
	}
}

// wantSameUser checks whom SameUser admits, and that it names whom it does not.
func wantSameUser(t *testing.T, p ipc.Peer, want bool) {
	t.Helper()
	user := p.SID
	if runtime.GOOS != "windows" {
		user = fmt.Sprint(p.UID)
	}
	err := ipc.SameUser(p)
	if want != (err == nil) {
		t.Errorf("%v: %v", p, err)
	}
	if !want && (!errors.Is(err, ipc.ErrUnauthorized) || !strings.Contains(err.Error(), user)) {
		t.Errorf("%v: want ErrUnauthorized with %s", err, user)
	}
}

func TestPeerText(t *testing.T) {
	for _, tt := range []struct {
		peer      ipc.Peer
		text, log string
	}{
		{ipc.Peer{PID: 12, UID: 0, GID: 1<<32 - 1}, "pid 12 uid 0 gid 4294967295", "peer.pid=12 peer.uid=0 peer.gid=4294967295"},
		{ipc.Peer{PID: 12, UID: 1<<32 - 1, GID: 1<<32 - 1, SID: "S-1-5-18"}, "pid 12 sid S-1-5-18", "peer.pid=12 peer.sid=S-1-5-18"},
	} {
		if got := tt.peer.String(); got != tt.text {
			t.Errorf("%q: want %q", got, tt.text)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("joined", "peer", tt.peer)
		if !strings.HasSuffix(log.String(), " "+tt.log+"\n") {
			t.Errorf("%q: want %q", &log, tt.log)
		}
	}
}
