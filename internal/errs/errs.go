// Package errs has the errors that the internal packages return and package
// ipc exports, and the types that they are made of.
package errs

import "fmt"

// The sentinels. Package ipc documents them where it exports them.
var (
	Name               error = &Sentinel{Text: "ipcName cannot be an empty string"}
	InUse              error = &Sentinel{Text: "a live server has this name", Also: addrInUse}
	Version            error = &Sentinel{Text: "protocol version differs"}
	EncryptionRequired error = &Sentinel{Text: "encryption is required"}
	Protocol           error = &Sentinel{Text: "protocol violation"}
)

// Sentinel is an error with a fixed text. It may also match an error of the
// standard library.
type Sentinel struct {
	Text string
	Also error
}

func (e *Sentinel) Error() string { return e.Text }
func (e *Sentinel) Unwrap() error { return e.Also }

// detail words err anew, where err's own text does not fit into the sentence.
type detail struct {
	text string
	err  error
}

func (e *detail) Error() string { return e.text }
func (e *detail) Unwrap() error { return e.err }

// Detailf returns an error that matches err and says the formatted text alone.
func Detailf(err error, format string, args ...any) error {
	return &detail{fmt.Sprintf(format, args...), err}
}
