package pipe

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
)

const (
	// backlog is how many clients may have connected and not been accepted: so
	// many instances wait. A further client finds the pipe busy.
	backlog = 16

	// bufferSize is how much Windows holds of what was written in each direction
	// and not read.
	bufferSize = 64 << 10

	// takeoverTime is how long Listen waits for a name that nobody serves any
	// more: clients of a dead server hold it until they notice.
	takeoverTime = 2 * time.Second

	// takeoverPause is the pause between two looks at such a name. Windows tells
	// of no event when it becomes free.
	takeoverPause = 20 * time.Millisecond
)

// LookupGroup returns the SID of the group called s, which may be a SID itself.
func LookupGroup(s string) (string, error) {
	sid := s
	g, err := user.LookupGroup(s)
	if err == nil {
		sid = g.Gid
	} else if !strings.HasPrefix(s, "S-1-") {
		return "", fmt.Errorf("ServerConfig.Group %q: %w", s, err)
	}
	if _, err := syscall.StringToSid(sid); err != nil {
		return "", fmt.Errorf("ServerConfig.Group %q: %w", s, err)
	}
	return sid, nil
}

// A Listener accepts clients of a named pipe. It has no file and no lock: the first
// instance of a name can be created once, and further ones only by who may, which
// is the own user.
//
// Each client takes an instance of the pipe, and Accept puts another in its place
// before it hands out the connection, so the name is never free for an instant.
//
//	waiting ──a client connects──► taken ──Accept──► a connection
type Listener struct {
	path string
	stop syscall.Handle // an event, set by Close

	// mu is held by Accept while it waits, and by Close once that has woken it.
	mu         sync.Mutex
	descriptor syscall.Handle // of the security of each instance
	waiting    []*instance    // waiting or taken, the oldest first
	closed     bool

	close sync.Once
}

// Listen listens on the pipe of a name, as of [Path]. If a live server has it, it
// fails with [errs.InUse]. Of any number of callers, in any number of processes,
// exactly one wins. A name that only clients of a dead server hold is waited for,
// for 2 s at most.
func Listen(path string, perm Perm) (*Listener, error) {
	own, err := peercred.Self()
	if err != nil {
		return nil, err
	}
	l := &Listener{path: path}
	if l.descriptor, err = newDescriptor(perm.sddl(own)); err != nil {
		return nil, err
	}
	if l.stop, err = newEvent(); err == nil {
		err = l.claim()
	}
	if err == nil {
		err = l.refill()
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// claim creates the first instance.
func (l *Listener) claim() error {
	for began := time.Now(); ; time.Sleep(takeoverPause) {
		// Asked first, since Wine creates a second first instance.
		asked := ask(l.path)
		if asked == nil {
			return errs.InUse
		}
		err := l.add(firstInstance)
		taken := errors.Is(err, syscall.ERROR_ACCESS_DENIED) || errors.Is(err, errPipeBusy)
		switch {
		case !taken:
			return err
		case time.Since(began) < takeoverTime:
		case asked == errSemTimeout:
			return errs.Detailf(errs.InUse, "a live server has this name, or clients of a dead one hold it")
		default:
			return err // nobody has it, and we may not
		}
	}
}

// refill creates instances until the backlog has all of them.
func (l *Listener) refill() error {
	for len(l.waiting) < backlog {
		if err := l.add(0); err != nil {
			return err
		}
	}
	return nil
}

// add creates one more instance.
func (l *Listener) add(flags uint32) error {
	h, err := newInstance(l.path, l.descriptor, flags)
	if err != nil {
		return err
	}
	i, err := wait(h)
	if err != nil {
		syscall.CloseHandle(h)
		return err
	}
	l.waiting = append(l.waiting, i)
	return nil
}

// Accept returns the next connection. It waits for one in a thread of the system:
// Windows has no way to wait for a client that the runtime's poller knows.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.fail(net.ErrClosed)
	}
	for {
		n, err := l.awaitClient()
		if err != nil {
			return nil, l.fail(err)
		}
		i := l.waiting[n]
		l.waiting = slices.Delete(l.waiting, n, n+1)
		if err := l.refill(); err != nil && len(l.waiting) == 0 {
			// It is the last, and keeps the name: without it another user could
			// create the pipe, and have the further instances of ours be his.
			l.waiting = append(l.waiting, i)
			return nil, l.fail(err)
		}
		if err := i.finish(); err != nil {
			syscall.CloseHandle(i.pipe) // its client has left
			continue
		}
		return newConn(i.pipe, l.path), nil
	}
}

// awaitClient returns the index of an instance that is taken, the oldest if there
// are several, or net.ErrClosed after Close.
func (l *Listener) awaitClient() (int, error) {
	events := [1 + backlog]syscall.Handle{l.stop}
	for n, i := range l.waiting {
		events[1+n] = i.overlapped.HEvent
	}
	r, _, err := waitMultiple.Call(uintptr(1+len(l.waiting)), uintptr(unsafe.Pointer(&events)), 0, syscall.INFINITE)
	switch n := uint32(r); { // more than there are is WAIT_FAILED
	case n == 0:
		return 0, net.ErrClosed
	case n <= uint32(len(l.waiting)):
		return int(n) - 1, nil
	}
	return 0, fmt.Errorf("WaitForMultipleObjects: %w", err)
}

func (l *Listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: network, Addr: addr(l.path), Err: err}
}

// Close frees the name, and ends the connections that were not accepted. It wakes
// Accept. Further calls do nothing.
func (l *Listener) Close() error {
	l.close.Do(func() {
		if l.stop != 0 {
			setEvent.Call(uintptr(l.stop))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed = true
		for _, i := range l.waiting {
			i.cancel()
		}
		l.waiting = nil
		if l.stop != 0 {
			syscall.CloseHandle(l.stop)
		}
		syscall.LocalFree(l.descriptor)
	})
	return nil
}

// Addr returns the name of the pipe.
func (l *Listener) Addr() net.Addr { return addr(l.path) }

// instance is one that waits for a client.
type instance struct {
	pipe       syscall.Handle
	overlapped *syscall.Overlapped // Windows writes to it until the event is set
}

// wait has the instance h wait for a client. The event is set once it has one.
func wait(h syscall.Handle) (*instance, error) {
	event, err := newEvent()
	if err != nil {
		return nil, err
	}
	i := &instance{h, &syscall.Overlapped{HEvent: event}}
	ok, _, err := connectNamedPipe.Call(uintptr(h), uintptr(unsafe.Pointer(i.overlapped)))
	switch {
	case ok != 0 || err == syscall.ERROR_IO_PENDING:
		return i, nil
	case err == errPipeConnected || err == errNoData:
		// A client has been quick, and with errNoData has left already: what it
		// wrote can still be read.
		i.overlapped.Internal = 0
		setEvent.Call(uintptr(event))
		return i, nil
	}
	syscall.CloseHandle(event)
	return nil, os.NewSyscallError("ConnectNamedPipe", err)
}

// finish returns whether the connection of a taken instance is good, and frees
// what waiting for it needed.
func (i *instance) finish() error {
	var n uint32
	const block = 1
	ok, _, err := getOverlappedResult.Call(uintptr(i.pipe), uintptr(unsafe.Pointer(i.overlapped)),
		uintptr(unsafe.Pointer(&n)), block)
	syscall.CloseHandle(i.overlapped.HEvent)
	if ok == 0 {
		return os.NewSyscallError("ConnectNamedPipe", err)
	}
	return nil
}

// cancel ends an instance, taken or not.
func (i *instance) cancel() {
	syscall.CancelIoEx(i.pipe, i.overlapped)
	i.finish()
	syscall.CloseHandle(i.pipe)
}
