// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"
)

// answerSize is what every answer carries, in bytes.
const answerSize = 1 << 10

// serveApplication serves HTTP/1.1, HTTP/2 without TLS and gRPC, says where on
// out, and ends when in does.
func serveApplication(in io.Reader, out io.Writer) error {
	var l [2]net.Listener
	for i := range l {
		var err error
		if l[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("listen for the application: %w", err)
		}
	}
	web := httpApplication()
	rpc := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(rpc, grpcApplication{})
	failed := make(chan error, 2)
	go func() { failed <- web.Serve(l[0]) }()
	go func() { failed <- rpc.Serve(l[1]) }()
	if err := json.NewEncoder(out).Encode(addresses{l[0].Addr().String(), l[1].Addr().String()}); err != nil {
		return fmt.Errorf("say where the application listens: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		failed <- nil
	}()
	err := <-failed
	_ = web.Close()
	rpc.Stop()
	return err
}

// httpApplication reads what it is sent and answers with answerSize bytes.
func httpApplication() *http.Server {
	body := bytes.Repeat([]byte("x"), answerSize)
	length := strconv.Itoa(len(body))
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", length)
		_, _ = w.Write(body)
	})}
}

type grpcApplication struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (grpcApplication) UnaryCall(_ context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: make([]byte, in.GetResponseSize())}}, nil
}
