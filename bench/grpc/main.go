// Command grpc measures gRPC.
package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer is one bidirectional stream for each client, or unary calls where there are
// requests, with a codec that leaves the bytes alone: gRPC without the cost of
// protobuf, in its default settings.
var peer = harness.Peer{
	Name:   "gRPC",
	Module: "google.golang.org/grpc",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		ln, err := net.Listen("unix", s.Path())
		if err != nil {
			return nil, err
		}
		return grpcServer{ln}, nil
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		conn, err := grpc.NewClient("unix:"+s.Path(),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.WaitForReady(true)))
		if err != nil {
			return nil, err
		}
		if s.Kind == harness.Request {
			return &grpcClient{conn: conn}, nil
		}
		stream, err := conn.NewStream(context.Background(), &grpcStream, grpcMethod)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		return &grpcClient{conn: conn, stream: stream}, nil
	},
}

// rawMessage is what goes through rawCodec.
type rawMessage struct{ data []byte }

type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

// Marshal copies: gRPC sends the buffer when SendMsg has returned.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.Copy(v.(*rawMessage).data, mem.DefaultBufferPool())}, nil
}

// Unmarshal reuses the buffer of the message.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m := v.(*rawMessage)
	if n := data.Len(); n > cap(m.data) {
		m.data = make([]byte, n)
	} else {
		m.data = m.data[:n]
	}
	data.CopyTo(m.data)
	return nil
}

// The service is described by hand, for want of a protobuf file.
const (
	grpcService = "bench.Bench"
	grpcMethod  = "/bench.Bench/Messages"
	grpcUnary   = "/bench.Bench/Answer"
)

// grpcAnswer answers a request with itself.
var grpcAnswer = grpc.MethodDesc{
	MethodName: "Answer",
	Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := new(rawMessage)
		err := decode(m)
		return m, err
	},
}

var grpcStream = grpc.StreamDesc{StreamName: "Messages", ServerStreams: true, ClientStreams: true}

type grpcServer struct{ ln net.Listener }

func (s grpcServer) Echo() error {
	return s.serve(func(stream grpc.ServerStream, m *rawMessage) error { return stream.SendMsg(m) })
}

func (s grpcServer) Sink(sink func([]byte)) error {
	return s.serve(func(_ grpc.ServerStream, m *rawMessage) error {
		sink(m.data)
		return nil
	})
}

func (s grpcServer) serve(handle func(grpc.ServerStream, *rawMessage) error) error {
	stream := grpcStream
	stream.Handler = func(_ any, st grpc.ServerStream) error {
		var m rawMessage
		for {
			if err := st.RecvMsg(&m); err != nil {
				return err
			}
			if err := handle(st, &m); err != nil {
				return err
			}
		}
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: grpcService,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{grpcAnswer},
		Streams:     []grpc.StreamDesc{stream},
	}, nil)
	return srv.Serve(s.ln)
}

type grpcClient struct {
	conn    *grpc.ClientConn
	stream  grpc.ClientStream // nil where there are requests
	out, in rawMessage
}

func (c *grpcClient) Send(p []byte) error {
	c.out.data = p
	return c.stream.SendMsg(&c.out)
}

func (c *grpcClient) Flush() error { return nil }

func (c *grpcClient) Call(p []byte) ([]byte, error) {
	if err := c.Send(p); err != nil {
		return nil, err
	}
	err := c.stream.RecvMsg(&c.in)
	return c.in.data, err
}

func (c *grpcClient) Ask(p []byte) ([]byte, error) {
	var answer rawMessage
	err := c.conn.Invoke(context.Background(), grpcUnary, &rawMessage{p}, &answer)
	return answer.data, err
}

func (c *grpcClient) Close() error { return c.conn.Close() }
