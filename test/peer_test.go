package ipc_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestSameUser(t *testing.T) {
	own := uint32(os.Geteuid())
	for uid, want := range map[uint32]bool{own: true, 0: true, own + 1: false, 1<<32 - 1: false} {
		err := ipc.SameUser(ipc.Peer{PID: 1, UID: uid})
		if want != (err == nil) {
			t.Errorf("uid %d: %v", uid, err)
		}
		if !want && (!errors.Is(err, ipc.ErrUnauthorized) || !strings.Contains(err.Error(), fmt.Sprint(uid))) {
			t.Errorf("%v: want ErrUnauthorized with uid %d", err, uid)
		}
	}
}

func TestPeerText(t *testing.T) {
	p := ipc.Peer{PID: 12, UID: 0, GID: 1<<32 - 1}
	if got, want := p.String(), "pid 12 uid 0 gid 4294967295"; got != want {
		t.Errorf("%q: want %q", got, want)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("joined", "peer", p)
	if want := "peer.pid=12 peer.uid=0 peer.gid=4294967295\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("%q: want %q", &log, want)
	}
}
