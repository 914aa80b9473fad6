package main

import (
	"os"
	"reflect"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// wantPID checks the processes of a server in a line of "ls -json"; 0 is none.
func wantPID(t *testing.T, line string, pid int) {
	t.Helper()
	var want any
	if pid != 0 {
		want = []any{float64(pid)}
	}
	if got := parseJSON(t, line)["pids"]; !reflect.DeepEqual(got, want) {
		t.Errorf("%s: pids %v, want %d", line, got, pid)
	}
}

// TestProcesses has servers of the same name in two folders, one of which was
// bound by a relative path, and one in the place of another that has ended.
func TestProcesses(t *testing.T) {
	dir := socktest.Dir(t, "a", "b")
	t.Chdir(dir)
	for _, sub := range []string{"a", "b"} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		server, err := ipc.StartServer(&ipc.ServerConfig{Name: "same name", SocketDir: sub})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
	}
	for _, path := range []string{dir + "/a", "./b"} {
		servers, err := list(path)
		if err != nil || len(servers) != 1 || !reflect.DeepEqual(servers[0].PIDs, []int{os.Getpid()}) {
			t.Errorf("%s: %+v, %v", path, servers, err)
		}
	}
	// A file that was moved is not where the process has bound it.
	if err := os.Rename("a/same name.sock", "a/other.sock"); err != nil {
		t.Fatal(err)
	}
	if servers, err := list("a"); err != nil || len(servers) != 1 || servers[0].State != stateAlive || servers[0].PIDs != nil {
		t.Errorf("after a rename: %+v, %v", servers, err)
	}
}
