package ipc_test

import (
	"fmt"
	"os"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// These time the work of single calls, in one process. What it adds up to
// between two processes, and against others, is bench's business.

const (
	benchData = 1 // to be counted
	benchEcho = 2 // to be answered
)

// benchPair returns a client, and the server that it talks to.
func benchPair(b *testing.B, config ipc.ServerConfig) (*ipc.Server, *ipc.Client) {
	b.Helper()
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		b.Fatal(err)
	}
	config.Name, config.SocketDir = "bench", dir
	server, err := ipc.StartServer(&config)
	if err != nil {
		b.Fatal(err)
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "bench", SocketDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		client.Close()
		server.Close()
		os.RemoveAll(dir)
	})
	return server, client
}

// answer handles what a server of a benchmark receives.
func answer(s *ipc.Server, m *ipc.Message) {
	if m.MsgType == benchEcho {
		s.Write(benchEcho, m.Data)
	}
	m.Release()
}

func serveBench(s *ipc.Server) {
	for {
		m, err := s.Read()
		if err != nil {
			return
		}
		answer(s, m)
	}
}

// roundTrip sends data, and waits for it to come back.
func roundTrip(b *testing.B, c *ipc.Client, data []byte) {
	if err := c.Write(benchEcho, data); err != nil {
		b.Fatal(err)
	}
	for {
		m, err := c.Read()
		if err != nil {
			b.Fatal(err)
		}
		if m.MsgType == benchEcho {
			m.Release()
			return
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		for _, size := range []int{64, 1 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("encrypted=%t/%d", encrypted, size), func(b *testing.B) {
				s, c := benchPair(b, ipc.ServerConfig{Encryption: encrypted})
				go serveBench(s)
				data := make([]byte, size)
				roundTrip(b, c, data)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := c.Write(benchData, data); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				roundTrip(b, c, data)
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, c := benchPair(b, ipc.ServerConfig{})
			data := make([]byte, size)
			go func() {
				for c.Write(benchData, data) == nil {
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				m, err := s.Read()
				if err != nil {
					b.Fatal(err)
				}
				m.Release()
			}
			b.StopTimer()
			s.Close() // ends the writer, together with the client's Close
			c.Close()
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []int{64, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, c := benchPair(b, ipc.ServerConfig{})
			go serveBench(s)
			data := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				roundTrip(b, c, data)
			}
		})
	}
}

func BenchmarkManager(b *testing.B) {
	s, c := benchPair(b, ipc.ServerConfig{MultiMode: true})
	go func() {
		for open := true; open; {
			s.ServerManager.Read(func(client *ipc.Server, m *ipc.Message, err error) {
				if open = err == nil; open {
					answer(client, m)
				}
			})
		}
	}()
	data := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, c, data)
	}
}
