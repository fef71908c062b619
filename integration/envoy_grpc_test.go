// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcServer is an application that speaks gRPC's own test protocol.
type grpcServer struct {
	grpc_testing.UnimplementedTestServiceServer

	name string
}

// UnaryCall returns the payload it was sent, names itself in a header and a
// trailer, and fails with the code it is asked for.
func (s *grpcServer) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-server", s.name))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-server-trailer", s.name))
	if c := in.GetResponseStatus().GetCode(); c != 0 {
		return nil, status.Error(codes.Code(c), in.GetResponseStatus().GetMessage())
	}
	return &grpc_testing.SimpleResponse{Payload: in.GetPayload(), Hostname: s.name}, nil
}

// FullDuplexCall answers each message before it reads the next.
func (s *grpcServer) FullDuplexCall(stream grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// grpcApp ends with the test.
func grpcApp(t *testing.T, name string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, &grpcServer{name: name})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr()
}

func grpcClient(t *testing.T, port int) grpc_testing.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpc_testing.NewTestServiceClient(conn)
}

// brief is a context for what must not take long: a call that hangs fails its
// test and not all of them.
func brief(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func payload(text string) *grpc_testing.Payload { return &grpc_testing.Payload{Body: []byte(text)} }

func TestEnvoyAndOutriderCallEachOtherOverGRPC(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, "grpc", grpcApp)
	m.each(t, func(t *testing.T, _, callee string, port int) {
		client := grpcClient(t, port)
		until(t, "a call goes through", func() error {
			_, err := client.UnaryCall(brief(t), &grpc_testing.SimpleRequest{})
			return err
		})
		t.Run("unary", func(t *testing.T) { unaryCallsPass(t, client, "api-"+callee) })
		t.Run("status", func(t *testing.T) { statusPasses(t, client) })
		t.Run("stream", func(t *testing.T) { messagesPassOneByOne(t, client) })
		t.Run("cancel", func(t *testing.T) { cancelEndsTheStream(t, client) })
	})
}

func unaryCallsPass(t *testing.T, client grpc_testing.TestServiceClient, server string) {
	var header, trailer metadata.MD
	text := strings.Repeat("payload ", 1<<14)
	out, err := client.UnaryCall(brief(t), &grpc_testing.SimpleRequest{Payload: payload(text)}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if out.GetHostname() != server || string(out.GetPayload().GetBody()) != text {
		t.Errorf("%q answered with %d bytes", out.GetHostname(), len(out.GetPayload().GetBody()))
	}
	if h, tr := strings.Join(header["x-server"], ","), strings.Join(trailer["x-server-trailer"], ","); h != server || tr != server {
		t.Errorf("header names %q, trailer %q", h, tr)
	}
}

// statusPasses expects the application's own error, which is in the trailers.
func statusPasses(t *testing.T, client grpc_testing.TestServiceClient) {
	want := &grpc_testing.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not today"}
	_, err := client.UnaryCall(brief(t), &grpc_testing.SimpleRequest{ResponseStatus: want})
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not today" {
		t.Errorf("the error is %v", err)
	}
}

// messagesPassOneByOne sends a message only after the answer to the one before.
func messagesPassOneByOne(t *testing.T, client grpc_testing.TestServiceClient) {
	stream, err := client.FullDuplexCall(brief(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		text := fmt.Sprintf("message %d", i)
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload(text)}); err != nil {
			t.Fatal(err)
		}
		in, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(in.GetPayload().GetBody()); got != text {
			t.Fatalf("answer to %q is %q", text, got)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func cancelEndsTheStream(t *testing.T, client grpc_testing.TestServiceClient) {
	ctx, cancel := context.WithCancel(brief(t))
	defer cancel()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload("one")}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancel: %v", err)
	}
	if _, err := client.UnaryCall(brief(t), &grpc_testing.SimpleRequest{}); err != nil {
		t.Errorf("a call after the cancelled one: %v", err)
	}
}

func TestEnvoyAndOutriderDenyByGRPCMethod(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, "grpc", grpcApp)
	for _, callee := range sides {
		writeConfig(t, m.consul, fmt.Sprintf(`{"Kind":"service-intentions","Name":"api-%s","Sources":[
			{"Name":"*","Permissions":[
				{"Action":"deny","HTTP":{"PathExact":"/grpc.testing.TestService/UnaryCall"}},
				{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`, callee))
	}
	m.each(t, func(t *testing.T, _, _ string, port int) {
		client := grpcClient(t, port)
		until(t, "the method is denied", func() error {
			_, err := client.UnaryCall(brief(t), &grpc_testing.SimpleRequest{})
			if status.Code(err) != codes.PermissionDenied {
				return fmt.Errorf("the answer is %w", err)
			}
			return nil
		})
		messagesPassOneByOne(t, client)
	})
}
