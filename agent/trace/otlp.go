// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// maxAnswer and maxAnswerHeader bound what a collector can make us read.
	maxAnswer       = 64 << 10
	maxAnswerHeader = 64 << 10
	// maxFile bounds the files that are read, in bytes.
	maxFile = 1 << 20

	// grpcMethod is the one method of the service of OTLP (OpenTelemetry protocol,
	// OTLP/gRPC).
	grpcMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
)

// A sender speaks OTLP, over HTTP or gRPC. A unary call of gRPC is a request of
// HTTP/2 with a length before its body and a status behind the answer's: it needs
// no library of six megabytes. A sender belongs to one goroutine.
type sender struct {
	to      destination
	agent   string
	client  *http.Client
	headers []pair
	stamp   string // of the files that client and headers are made from
}

func newSender(to destination, version string) *sender {
	return &sender{to: to, agent: "outrider/" + version}
}

func (s *sender) close() {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
}

// prepare reads the files, again when they have changed.
func (s *sender) prepare() error {
	stamp := fingerprint(s.to.headersFile, s.to.caFile, s.to.certFile, s.to.keyFile)
	if s.client != nil && stamp == s.stamp {
		return nil
	}
	headers := s.to.headers
	if name := s.to.headersFile; name != "" {
		text, err := readFile(name)
		if err != nil {
			return fmt.Errorf("read the headers for the collector: %w", err)
		}
		if headers, err = headerLines(string(text)); err != nil {
			return fmt.Errorf("read the headers for the collector from %s: %w", name, err)
		}
	}
	config, err := s.to.tlsConfig()
	if err != nil {
		return err
	}
	transport := &http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
		MaxIdleConns: 1, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: maxAnswerHeader,
		Proxy: http.ProxyFromEnvironment,
	}
	if s.to.grpc {
		transport.Proxy, transport.Protocols = nil, new(http.Protocols)
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	s.close()
	s.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the headers are for one collector only
	}}
	s.headers, s.stamp = headers, stamp
	return nil
}

// fingerprint changes when one of the files does.
func fingerprint(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%d.%d,", info.ModTime().UnixNano(), info.Size())
		} else {
			b.WriteString("none,")
		}
	}
	return b.String()
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

func (d *destination) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.caFile != "" {
		text, err := readFile(d.caFile)
		if err != nil {
			return nil, fmt.Errorf("read who signs the collector's certificate: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read who signs the collector's certificate: %s holds no certificate in PEM", d.caFile)
		}
	}
	if d.certFile != "" {
		cert, err := tls.LoadX509KeyPair(d.certFile, d.keyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate to show the collector from %s and %s: %w", d.certFile, d.keyFile, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// send implements deliverer. Its errors hold nothing that the collector has said:
// that could be a header of ours.
func (s *sender) send(ctx context.Context, data *tracepb.TracesData) (refused int64, err error) {
	if err := s.prepare(); err != nil {
		return 0, &later{cause: err}
	}
	// The message of the protocol has the same form: ResourceSpans as field 1.
	body, err := proto.Marshal(data)
	if err != nil {
		return 0, fmt.Errorf("encode spans: %w", err)
	}
	req, err := s.request(ctx, body)
	if err != nil {
		return 0, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which the log line has
		}
		s.client.CloseIdleConnections() // one that has gone silent is not to be used again
		return 0, &later{cause: err}
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, &later{cause: fmt.Errorf("read the answer: %w", err)}
	}
	if err := answered(resp); err != nil {
		return 0, err
	}
	if s.to.grpc {
		if err := rpcStatus(resp); err != nil || len(answer) < 5 {
			return 0, err
		}
		return refusedSpans(answer[5:]), nil
	}
	if resp.Header.Get("Content-Type") != "application/x-protobuf" {
		return 0, nil
	}
	return refusedSpans(answer), nil
}

func (s *sender) request(ctx context.Context, body []byte) (*http.Request, error) {
	if s.to.gzip {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(body) // a Buffer takes everything
		_ = w.Close()
		body = b.Bytes()
	}
	if s.to.grpc {
		framed := make([]byte, 5, 5+len(body))
		if s.to.gzip {
			framed[0] = 1
		}
		binary.BigEndian.PutUint32(framed[1:], uint32(len(body))) //nolint:gosec // bounded by the batch
		body = append(framed, body...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request for the collector: %w", err)
	}
	for _, h := range s.headers {
		req.Header.Add(h.key, h.value)
	}
	req.Header.Set("User-Agent", s.agent)
	encoding := "Content-Encoding"
	req.Header.Set("Content-Type", "application/x-protobuf")
	if s.to.grpc {
		encoding = "Grpc-Encoding"
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	}
	if s.to.gzip {
		req.Header.Set(encoding, "gzip")
	}
	return req, nil
}

// answered reads the status of HTTP. Those that the protocol names may be tried
// again (OpenTelemetry protocol, OTLP/HTTP response).
func answered(resp *http.Response) error {
	err := fmt.Errorf("the collector has answered %d %s; its own log says why", resp.StatusCode, http.StatusText(resp.StatusCode))
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
		return &later{cause: err, after: time.Duration(seconds) * time.Second}
	}
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return err
}

// rpcStatus reads the status of gRPC, which may stand before or behind the answer.
func rpcStatus(resp *http.Response) error {
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	code, err := strconv.ParseUint(status, 10, 8)
	if err != nil {
		return errors.New("the answer has no status of gRPC; is this the port for OTLP/HTTP? set the protocol to http/protobuf")
	}
	switch code {
	case 0:
		return nil
	case 1, 4, 8, 10, 11, 14, 15: // as the protocol names them
		return &later{cause: fmt.Errorf("the collector has answered with gRPC status %d; its own log says why", code)}
	}
	return fmt.Errorf("the collector has answered with gRPC status %d; its own log says why", code)
}

// refusedSpans reads what counts of an answer: partial_success, field 1, and in
// it rejected_spans, field 1. An answer that cannot be read refuses nothing.
func refusedSpans(answer []byte) (count int64) {
	fields(answer, protowire.BytesType, func(partial []byte) {
		partial, _ = protowire.ConsumeBytes(partial)
		fields(partial, protowire.VarintType, func(value []byte) {
			n, _ := protowire.ConsumeVarint(value)
			count = int64(n) //nolint:gosec // as the protocol has it
		})
	})
	return count
}

// fields calls f with each field 1 of a message that has the given type.
func fields(message []byte, kind protowire.Type, f func(value []byte)) {
	for len(message) > 0 {
		number, is, tag := protowire.ConsumeTag(message)
		if tag < 0 {
			return
		}
		length := protowire.ConsumeFieldValue(number, is, message[tag:])
		if length < 0 {
			return
		}
		if number == 1 && is == kind {
			f(message[tag : tag+length])
		}
		message = message[tag+length:]
	}
}
