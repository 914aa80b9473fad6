package ipc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// soakTime is how long TestSoak runs: with -soak 10m, for 10 minutes more than
// the time that -timeout allows for all tests.
var soakTime = 5 * time.Second

func init() {
	flag.Func("soak", "how long TestSoak runs (default 5s)", func(s string) (err error) {
		if soakTime, err = time.ParseDuration(s); err != nil {
			return err
		}
		if limit, ok := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); ok && limit > 0 {
			return flag.Set("test.timeout", fmt.Sprint(limit+soakTime))
		}
		return nil
	})
	helpers["soak server"] = soakServerMain
	helpers["soak client"] = soakClientMain
}

// Types of the messages in a soak.
const (
	soakData  = 10 // of a client: soakHead, then content
	soakReply = 11 // of a server: the number among its messages on this connection, then content
	soakEnd   = 12 // of a client: soakHead with the number of messages before it
	soakThen  = 13 // the answer to it, with the same data
)

// A soakHead begins the data of a client's message.
type soakHead struct {
	client uint32
	number uint64
}

const soakHeadSize = 12

func (h soakHead) data(size int) []byte {
	b := make([]byte, 0, soakHeadSize+size)
	b = binary.BigEndian.AppendUint32(b, h.client)
	b = binary.BigEndian.AppendUint64(b, h.number)
	return append(b, soakContent(h.number, size)...)
}

func soakHeadOf(data []byte) (h soakHead, ok bool) {
	if len(data) < soakHeadSize {
		return h, false
	}
	h = soakHead{binary.BigEndian.Uint32(data), binary.BigEndian.Uint64(data[4:])}
	return h, bytes.Equal(data[soakHeadSize:], soakContent(h.number, len(data)-soakHeadSize))
}

// soakContent is what message number n of a size holds.
func soakContent(n uint64, size int) []byte { return payload(int(n%4093), size) }

// soakSize is a random size up to 1 MiB, small ones being far more frequent.
func soakSize() int {
	switch n := rand.IntN(100); {
	case n == 0:
		return rand.IntN(1<<20 + 1)
	case n < 5:
		return rand.IntN(100_000)
	}
	return rand.IntN(2000)
}

// soakRange is what has come from a client over one connection.
type soakRange struct {
	connection  int
	first, last uint64
}

// soakServer is a MultiMode server that answers every message, and keeps an
// eye on them.
type soakServer struct {
	config ipc.ServerConfig
	wrong  func(string)

	mu     sync.Mutex
	server *ipc.Server
	done   sync.WaitGroup
	life   int                    // counts the servers
	from   map[uint32][]soakRange // by client, for this life
	read   uint64
}

// soakState is what the server keeps for one connection.
type soakState struct {
	client  uint32
	seen    bool
	next    uint64
	replies uint64
}

// start starts the next server, and the goroutines that handle its clients.
func (s *soakServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	config := s.config
	server, err := ipc.StartServer(&config)
	if err != nil {
		return err
	}
	s.server = server
	s.life++
	s.from = make(map[uint32][]soakRange)
	var states sync.Map
	for range 3 {
		s.done.Go(func() {
			for server.ServerManager.ReadContext(context.Background(), func(c *ipc.Server, m *ipc.Message, err error) {
				if err != nil {
					return
				}
				state, _ := states.LoadOrStore(c.ClientID(), new(soakState))
				s.handle(c, m, state.(*soakState))
				if m.Status == ipc.Disconnected.String() {
					states.Delete(c.ClientID())
				}
			}) == nil {
			}
		})
	}
	return nil
}

// stop closes the server, and looks back on its life.
func (s *soakServer) stop() {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	server.Close() // an error says what was not sent
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for client, ranges := range s.from {
		// In the order of joining, the numbers only rise.
		slices.SortFunc(ranges, func(a, b soakRange) int { return a.connection - b.connection })
		for i, r := range ranges[1:] {
			if r.first <= ranges[i].last {
				s.wrong(fmt.Sprintf("client %d: %d to %d over one connection, and from %d over the next",
					client, ranges[i].first, ranges[i].last, r.first))
			}
		}
	}
}

// handle is called for one message of a connection after the other.
func (s *soakServer) handle(c *ipc.Server, m *ipc.Message, state *soakState) {
	switch {
	case m.Status == ipc.Error.String():
		if !errors.Is(m.Err, ipc.ErrTimeout) { // a client that was stopped
			s.wrong(fmt.Sprintf("server: event %s", describe(m)))
		}
		return
	case m.MsgType < 0:
		return
	case m.MsgType != soakData && m.MsgType != soakEnd:
		s.wrong("server: " + describe(m))
		return
	}
	h, ok := soakHeadOf(m.Data)
	switch {
	case !ok:
		s.wrong("server: damaged " + describe(m))
		return
	case state.seen && (h.client != state.client || h.number != state.next):
		s.wrong(fmt.Sprintf("server: message %d of client %d after %d of %d on the same connection",
			h.number, h.client, state.next-1, state.client))
	}
	s.mu.Lock()
	s.read++
	ranges := s.from[h.client]
	if !state.seen {
		ranges = append(ranges, soakRange{c.ClientID(), h.number, h.number})
	}
	for i := range ranges {
		if ranges[i].connection == c.ClientID() {
			ranges[i].last = h.number
		}
	}
	s.from[h.client] = ranges
	s.mu.Unlock()
	state.client, state.seen, state.next = h.client, true, h.number+1
	if m.MsgType == soakEnd {
		c.Write(soakThen, m.Data)
	} else {
		size := len(m.Data) - soakHeadSize
		reply := binary.BigEndian.AppendUint64(nil, state.replies)
		c.Write(soakReply, append(reply, soakContent(state.replies, size)...)) // fails if it has left
		state.replies++
	}
	m.Release()
}

// soakClient writes to a server until it is told to stop, and then wants to
// know that its last message has arrived.
type soakClient struct {
	id     uint32
	config ipc.ClientConfig
	wrong  func(string)
	conn   atomic.Pointer[net.Conn] // the latest, to be broken by the test
}

// run returns how many messages were accepted.
func (s *soakClient) run(stop context.Context) (accepted uint64) {
	config := s.config
	path := socketPath(config.SocketDir, config.Name)
	config.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dialAt(ctx, path)
		if err != nil {
			return nil, err
		}
		s.conn.Store(&c)
		return c, nil
	}
	client, err := ipc.StartClientContext(stop, &config)
	if err != nil {
		if stop.Err() == nil {
			s.wrong(fmt.Sprintf("client %d: StartClient: %v", s.id, err))
		}
		return 0
	}
	defer client.Close()
	events := make(chan ipc.Status, 100)
	read := background(func() error {
		replies := uint64(0)
		for m, err := range client.Messages(context.Background()) {
			switch {
			case err != nil:
				return err
			case m.Status == ipc.Connected.String():
				replies = 0
				if stop.Err() != nil {
					events <- ipc.Connected
				}
			case m.Status == ipc.Error.String():
				s.wrong(fmt.Sprintf("client %d: event %s", s.id, describe(m)))
			case m.MsgType == soakThen:
				events <- ipc.Closed
			case m.MsgType == soakReply:
				n, content := binary.BigEndian.Uint64(m.Data), m.Data[8:]
				if n != replies || !bytes.Equal(content, soakContent(n, len(content))) {
					s.wrong(fmt.Sprintf("client %d: read %s, number %d, want number %d", s.id, describe(m), n, replies))
				}
				replies = n + 1
				m.Release()
			case m.MsgType > 0:
				s.wrong(fmt.Sprintf("client %d: read %s", s.id, describe(m)))
			}
		}
		return nil
	})
	for stop.Err() == nil {
		err := client.WriteContext(stop, soakData, soakHead{s.id, accepted}.data(soakSize()))
		switch {
		case err == nil:
			accepted++
		case stop.Err() == nil && !errors.Is(err, ipc.ErrNotConnected): // a large one that was not sent
			s.wrong(fmt.Sprintf("client %d: WriteContext: %v", s.id, err))
		}
		if rand.IntN(50) == 0 {
			client.Flush(stop)
		}
	}
	// The answer to the last message says that all has arrived. Either may be
	// lost with the connection.
	for event, n := ipc.Connected, accepted; event == ipc.Connected; n++ {
		if err := client.WriteContext(context.Background(), soakEnd, soakHead{s.id, n}.data(0)); err != nil {
			s.wrong(fmt.Sprintf("client %d: its last message: %v", s.id, err))
		}
		select {
		case event = <-events:
		case <-time.After(watchdog / 2):
			s.wrong(fmt.Sprintf("client %d: no answer to its last message, in state %s", s.id, client.Status()))
			event = ipc.Timeout
		}
	}
	if err := client.Close(); err != nil {
		s.wrong(fmt.Sprintf("client %d: Close: %v", s.id, err))
	}
	if err := read(); !errors.Is(err, ipc.ErrClosed) {
		s.wrong(fmt.Sprintf("client %d: reading ended with %v", s.id, err))
	}
	return accepted
}

// soakConfig is how a server in folder dir is configured: name says whether it
// encrypts.
func soakConfig(dir, name string) ipc.ServerConfig {
	c := ipc.ServerConfig{Name: name, SocketDir: dir, MultiMode: true, Encryption: strings.HasPrefix(name, "sealed")}
	quiet(&c, nil)
	return c
}

// nameVariable tells a helper the name of its server.
const nameVariable = "IPC_TEST_NAME"

// soakServerMain is a server that can be killed.
func soakServerMain() {
	s := &soakServer{
		config: soakConfig(os.Getenv(directoryVariable), os.Getenv(nameVariable)),
		wrong:  func(what string) { fmt.Println(what) },
	}
	if err := s.start(); err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	select {}
}

// soakClientMain is a client that can be killed.
func soakClientMain() {
	s := &soakClient{
		id:     uint32(os.Getpid()),
		config: ipc.ClientConfig{Name: os.Getenv(nameVariable), SocketDir: os.Getenv(directoryVariable), RetryTimer: retryTimer},
		wrong:  func(what string) { fmt.Println(what) },
	}
	fmt.Println("ready")
	s.run(context.Background())
}

// TestSoak keeps servers and clients busy, in this process and others, plain
// and encrypted, both ways, while connections are broken, clients close, and
// servers and clients are closed, killed and started again. Whatever arrives
// must do so in order, whole and once; in the end everything that the clients
// have left must arrive, and nothing be left behind.
func TestSoak(t *testing.T) {
	d := soakTime
	if testing.Short() && d == 5*time.Second {
		d = time.Second
	}
	goroutines, open := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() { // as begin does it, which is for tests that do not take long
		if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines && descriptors() <= open }) {
			t.Errorf("%d goroutines and %d descriptors before, %d and %d after",
				goroutines, open, runtime.NumGoroutine(), descriptors())
		}
	})
	dir := socketDir(t)
	var mistakes atomic.Int64
	wrong := func(what string) {
		if mistakes.Add(1) <= 20 {
			t.Error(what)
		}
	}
	payload(1, 1) // it keeps what payloads are made of
	baseline := live()

	// The servers: two here, two elsewhere.
	names := []string{"plain", "sealed", "plain-elsewhere", "sealed-elsewhere"}
	servers := make(map[string]*soakServer)
	elsewhere := make(map[string]*child)
	defer os.Unsetenv(nameVariable)
	spawn := func(helper, name string) *child {
		os.Setenv(nameVariable, name)
		return startChild(t, helper, &route{client: ipc.ClientConfig{SocketDir: dir}})
	}
	// mourn kills a helper, which should have had no complaints.
	mourn := func(name string, c *child) {
		c.slaughter(func(line string) { wrong(name + ": " + line) })
	}
	for _, name := range names {
		if strings.HasSuffix(name, "elsewhere") {
			elsewhere[name] = spawn("soak server", name)
			t.Cleanup(func() { os.Remove(filepath.Join(dir, name+".sock")) })
			continue
		}
		s := &soakServer{config: soakConfig(dir, name), wrong: wrong}
		noError(t, "StartServer", s.start())
		servers[name] = s
	}

	// The clients: 28 here, 4 elsewhere.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var accepted, ids atomic.Uint64
	var running sync.WaitGroup
	clients := make([]atomic.Pointer[soakClient], 28)
	for i := range clients {
		running.Go(func() {
			for ctx.Err() == nil { // one after another
				s := &soakClient{
					id:     uint32(ids.Add(1)),
					config: ipc.ClientConfig{Name: names[i%len(names)], SocketDir: dir, RetryTimer: retryTimer},
					wrong:  wrong,
				}
				quiet(nil, &s.config)
				clients[i].Store(s)
				life, cancel := context.WithCancel(ctx)
				if rand.IntN(2) == 0 {
					life, cancel = context.WithTimeout(ctx, d/20+rand.N(d))
				}
				accepted.Add(s.run(life))
				cancel()
			}
		})
	}
	var victims []*child
	for i := range 4 {
		victims = append(victims, spawn("soak client", names[i]))
	}

	// What happens to them.
	counts := make(map[string]int)
	var middle uint64
	pause := min(d/40, time.Second)
	for start := time.Now(); time.Since(start) < d; {
		time.Sleep(pause/2 + rand.N(pause))
		what := ""
		name := names[rand.IntN(len(names))]
		switch n := rand.IntN(10); {
		case n < 5:
			what = "connections broken"
			if c := clients[rand.IntN(len(clients))].Load().conn.Load(); c != nil {
				half, ok := (*c).(*net.UnixConn)
				switch how := rand.IntN(3); {
				case how == 0 || !ok: // a pipe cannot be closed by halves
					(*c).Close()
				case how == 1:
					half.CloseWrite()
				default:
					half.CloseRead()
				}
			}
		case n < 7:
			what = "clients killed"
			i := rand.IntN(len(victims))
			mourn("client elsewhere", victims[i])
			victims[i] = spawn("soak client", names[i])
		case servers[name] != nil:
			what = "servers closed"
			servers[name].stop()
			noError(t, "StartServer", servers[name].start())
		default:
			what = "servers killed"
			mourn(name, elsewhere[name])
			elsewhere[name] = spawn("soak server", name)
		}
		counts[what]++
		if middle == 0 && time.Since(start) > d/2 {
			middle = live()
		}
	}
	during := live()
	stop()
	running.Wait()
	for _, c := range victims {
		mourn("client elsewhere", c)
	}
	read := uint64(0)
	for _, s := range servers {
		s.stop()
		read += s.read
	}
	for name, c := range elsewhere {
		mourn(name, c)
	}
	t.Logf("%v: %d messages accepted from %d clients here, %d read by servers here; %v",
		d, accepted.Load(), ids.Load(), read, counts)
	after := live()
	t.Logf("heap in KiB: %d before, %d in the middle, %d before the end, %d after it", baseline>>10, middle>>10, during>>10, after>>10)
	// 28 clients and as many servers' ends may each hold an outbox and an
	// inbox; over time that does not grow.
	if most := uint64(28*2*6) << 20; middle > most || during > most {
		t.Errorf("the heap had %d and %d MiB, want no more than %d", middle>>20, during>>20, most>>20)
	}
	if after > baseline+4<<20 {
		t.Errorf("the heap had %d KiB before, and has %d KiB", baseline>>10, after>>10)
	}
}
