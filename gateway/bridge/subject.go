package bridge

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The subjects of the server NAME are
//
//	ipc.NAME.TYPE          messages and requests to it
//	ipc.NAME.out.TYPE      what it sends to its clients unasked
//	ipc.NAME.cancel.REPLY  gives up the request whose reply subject is REPLY
//
// The second and the third have more tokens than the first, so that a subscription
// to ipc.NAME.*, and a permission for it, does not include them.
const (
	out    = "out"
	cancel = "cancel"
)

// queueGroup is that of everything that serves a name.
const queueGroup = "ipc"

// Subject returns the subject of messages and requests of a type to the server
// called name. In the name, each byte that a token of a subject cannot have (dot,
// asterisk, greater-than sign, space and control characters), and the percent
// sign, is replaced by a percent sign and its value in two hexadecimal digits:
// "org.example" becomes "org%2Eexample".
func Subject(name string, msgType int) string {
	return newSubjects(name).typed(msgType)
}

// subjects is a name as the beginning of its subjects: "ipc.NAME.".
type subjects string

func newSubjects(name string) subjects {
	var b strings.Builder
	b.WriteString("ipc.")
	for i := range len(name) {
		switch c := name[i]; {
		case c <= ' ', c == 0x7f, c == '.', c == '*', c == '>', c == '%':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('.')
	return subjects(b.String())
}

// all is what a server subscribes to.
func (s subjects) all() string { return string(s) + "*" }

func (s subjects) typed(msgType int) string { return string(s) + strconv.Itoa(msgType) }

func (s subjects) out() string { return string(s) + out + ".*" }

func (s subjects) outTyped(msgType int) string {
	return string(s) + out + "." + strconv.Itoa(msgType)
}

func (s subjects) cancels() string { return string(s) + cancel + ".>" }

func (s subjects) cancel(reply string) string { return string(s) + cancel + "." + reply }

// cancelled returns the reply subject that a subject of cancel names.
func (s subjects) cancelled(subject string) string {
	return subject[len(s)+len(cancel)+1:]
}

// lastToken returns the last token of a subject.
func lastToken(subject string) string {
	return subject[strings.LastIndexByte(subject, '.')+1:]
}

// parseType returns the message type that a token stands for: 1 to 2147483647, in
// decimal without leading zeros.
func parseType(token string) (int, bool) {
	n, err := strconv.Atoi(token)
	ok := err == nil && n >= 1 && int64(n) <= math.MaxInt32 && strconv.Itoa(n) == token
	return n, ok
}
