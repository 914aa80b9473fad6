//go:build unix

package ipc_test

import (
	"errors"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Clients in other languages say what they wait for, and where, while they wait
// and when they give up.
func TestLanguagesSayWhatTheyWaitFor(t *testing.T) {
	parallel(t)
	const (
		refused  = "the server closed the connection without a word: it may have refused this client (Authorize), "
		noAnswer = "the connection is not answered: is the server busy, stopped, or not one of this protocol?"
		noPlace  = "the server has no place for this client: is it in single mode, or at MaxClients?"
	)
	situations := []struct {
		prepare func(t *testing.T, route *route)
		waits   string // what a line about the wait begins with
		gaveUp  string // what the last line says after the path, in any language
	}{
		{func(*testing.T, *route) {}, "waiting for the server: ", ""},
		{func(t *testing.T, route *route) {
			unixSingle.startServer(t, route, quiet, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
				s.Authorize = func(ipc.Peer) error { return errors.New("nobody") }
			})
		}, "waiting for the server: " + refused, refused},
		{func(t *testing.T, route *route) { route.listen(t) }, "", noAnswer},
		{func(t *testing.T, route *route) {
			server := unixSingle.startServer(t, route)
			route.startClient(t)
			unixSingle.join(t, server)
		}, "waiting for a place: " + noPlace, noPlace},
	}
	for _, g := range languages {
		g.visit(t, false, func(t *testing.T, v *visit) {
			var clients []*foreign
			var paths []string
			for _, s := range situations {
				v.route = unixRoute(t)
				s.prepare(t, v.route)
				clients = append(clients, v.client("--timeout", "2"))
				paths = append(paths, v.route.path())
			}
			for i, s := range situations {
				err := clients[i].wait()
				out := clients[i].out.String()
				last := "error: timed out trying to connect to " + paths[i] + ": " + s.gaveUp
				if err == nil || !strings.Contains("\n"+out, "\n"+s.waits) || !strings.Contains(out, last) {
					t.Errorf("%s: %v\n%swant %q and %q", clients[i].name, err, out, s.waits, last)
				}
			}
		})
	}
}
