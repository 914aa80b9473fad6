package ipc

import "fmt"

// Status is the state of a Server or Client.
type Status int

// The states. A Server is Listening until its first client is Connected, and
// Disconnected between two clients; a Client is Connecting, then Connected,
// and ReConnecting whenever the connection is lost. Closed, Timeout and, for
// the Server of a client that left, Disconnected are final. No Server or Client is
// ever NotConnected, and only an event has the status Error.
//
// The text of each, as in Message.Status, is its name but for two: "Not Connected"
// and "Reconnecting".
const (
	NotConnected Status = iota
	Listening
	Connecting
	Connected
	ReConnecting
	Closed
	Closing
	Error
	Timeout
	Disconnected
)

var statusText = [...]string{
	NotConnected: "Not Connected",
	Listening:    "Listening",
	Connecting:   "Connecting",
	Connected:    "Connected",
	ReConnecting: "Reconnecting",
	Closed:       "Closed",
	Closing:      "Closing",
	Error:        "Error",
	Timeout:      "Timeout",
	Disconnected: "Disconnected",
}

// String returns the text that events carry in Message.Status.
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusText) {
		return fmt.Sprintf("Status(%d)", int(s))
	}
	return statusText[s]
}
