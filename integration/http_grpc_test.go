// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// grpcEcho knows every kind of call that gRPC has. Its UnaryCall says how many
// milliseconds its caller still waits, and holds a call that says "hold".
type grpcEcho struct {
	grpcServer

	ended chan struct{} // one for each held call whose caller has gone
}

func (s *grpcEcho) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if string(in.GetPayload().GetBody()) == "hold" {
		<-ctx.Done()
		s.ended <- struct{}{}
		return nil, ctx.Err()
	}
	left := ""
	if due, ok := ctx.Deadline(); ok {
		left = strconv.FormatInt(time.Until(due).Milliseconds(), 10)
	}
	return &grpc_testing.SimpleResponse{Payload: in.GetPayload(), Hostname: left}, nil
}

// StreamingOutputCall sends as many messages as it is asked for.
func (s *grpcEcho) StreamingOutputCall(in *grpc_testing.StreamingOutputCallRequest, out grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	for i := range in.GetResponseParameters() {
		if err := out.Send(&grpc_testing.StreamingOutputCallResponse{Payload: payload(strconv.Itoa(i))}); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall answers with the number of bytes it was sent.
func (s *grpcEcho) StreamingInputCall(in grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	size := 0
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.GetPayload().GetBody())
	}
}

// serveGRPC ends with the test.
func serveGRPC(t *testing.T) (net.Addr, *grpcEcho) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, app := grpc.NewServer(), &grpcEcho{grpcServer: grpcServer{name: "app"}, ended: make(chan struct{}, 16)}
	grpc_testing.RegisterTestServiceServer(s, app)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr(), app
}

// grpcPair is web-NAME → NAME with gRPC, in an agent each.
func grpcPair(t *testing.T, consul *realserver.Consul, name string) (client grpc_testing.TestServiceClient, app *grpcEcho, web, api *outrider) {
	t.Helper()
	entry(t, consul, `{"Kind":"service-defaults","Name":%q,"Protocol":"grpc"}`, name)
	addr, app := serveGRPC(t)
	port := freePort(t)
	api = start(t, consul, service{name: name, app: addr}.stanza(t))
	web = start(t, consul, service{name: "web-" + name, upstream: name, port: port}.stanza(t))
	web.usableEndpoints(t, 1)
	return grpcClient(t, port), app, web, api
}

func gRPCCallsPass(t *testing.T, consul *realserver.Consul) {
	client, _, _, _ := grpcPair(t, consul, "rpc")
	for i := range 100 {
		text := fmt.Sprintf("call %d", i)
		out, err := client.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{Payload: payload(text)})
		if err != nil || string(out.GetPayload().GetBody()) != text {
			t.Fatalf("the answer to %q is %v: %v", text, out, err)
		}
	}
	t.Run("from the server", func(t *testing.T) { serverStreams(t, client) })
	t.Run("from the client", func(t *testing.T) { clientStreams(t, client) })
	t.Run("both ways", func(t *testing.T) { messagesPassOneByOne(t, client) })
	_, err := client.EmptyCall(t.Context(), &grpc_testing.Empty{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that the application has not: %v", err)
	}
}

func serverStreams(t *testing.T, client grpc_testing.TestServiceClient) {
	const messages = 500
	stream, err := client.StreamingOutputCall(t.Context(), &grpc_testing.StreamingOutputCallRequest{
		ResponseParameters: make([]*grpc_testing.ResponseParameters, messages),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		m, err := stream.Recv()
		if err != nil || string(m.GetPayload().GetBody()) != strconv.Itoa(i) {
			t.Fatalf("message %d is %v: %v", i, m, err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func clientStreams(t *testing.T, client grpc_testing.TestServiceClient) {
	stream, err := client.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const messages, size = 200, 10_000
	for range messages {
		if err := stream.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := stream.CloseAndRecv()
	if err != nil || out.GetAggregatedPayloadSize() != messages*size {
		t.Errorf("the application got %d bytes of %d: %v", out.GetAggregatedPayloadSize(), messages*size, err)
	}
}

func gRPCDeadlinesArePassedOn(t *testing.T, consul *realserver.Consul) {
	client, app, _, _ := grpcPair(t, consul, "rpc-due")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := strconv.ParseInt(out.GetHostname(), 10, 64); err != nil || left <= 0 || left >= patience.Milliseconds() {
		t.Errorf("the application is told %d ms of %v: %v", left, patience, err)
	}
	if out, err := client.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{}); err != nil || out.GetHostname() != "" {
		t.Errorf("the application is told %s ms, the caller said nothing: %v", out.GetHostname(), err)
	}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := client.UnaryCall(short, &grpc_testing.SimpleRequest{Payload: payload("hold")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call whose time is up: %v", err)
	}
	receive(t, app.ended, "the application to be told")
}

// TestLeafRotationCutsNoStream has a stream open, and calls made, over a change
// of the mesh's CA, by which both sidecars get new leaves.
func TestLeafRotationCutsNoStream(t *testing.T) {
	t.Parallel()
	consul := newHTTPMesh(t)
	client, _, web, api := grpcPair(t, consul, "steady")
	stream, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	say := func() error {
		said++
		text := strconv.Itoa(said)
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload(text)}); err != nil {
			return err
		}
		got, err := stream.Recv()
		if err == nil && string(got.GetPayload().GetBody()) != text {
			err = fmt.Errorf("the answer to %s is %s", text, got.GetPayload().GetBody())
		}
		return err
	}
	l := startRequests(t, 1, func(context.Context) error { return say() })
	calls := startRequests(t, 2, func(ctx context.Context) error {
		_, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
		return err
	})
	old, oldAPI := web.serial(t), api.serial(t)
	setCA(t, consul, map[string]any{"Provider": "consul", "Config": map[string]any{"PrivateKeyType": "ec", "PrivateKeyBits": 384}})
	web.newLeaf(t, old)
	api.newLeaf(t, oldAPI)
	l.more(t, 100)
	calls.more(t, 100)
	calls.end(t)
	l.end(t)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
