// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // a collector takes it
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// An arrival is one message that a receiver got.
type arrival struct {
	spans  int
	header map[string]string // authorization, user-agent
}

// A receiver is a collector with the official service of OTLP.
type receiver struct {
	collectorpb.UnimplementedTraceServiceServer
	got    chan arrival
	answer func() (*collectorpb.ExportTraceServiceResponse, error)
}

func newReceiver() *receiver {
	return &receiver{got: make(chan arrival, 16), answer: func() (*collectorpb.ExportTraceServiceResponse, error) {
		return &collectorpb.ExportTraceServiceResponse{}, nil
	}}
}

func (r *receiver) arrived(req *collectorpb.ExportTraceServiceRequest, authorization, agent string) {
	a := arrival{header: map[string]string{"authorization": authorization, "user-agent": agent}}
	for _, rs := range req.GetResourceSpans() {
		a.spans += len(rs.GetScopeSpans()[0].GetSpans())
	}
	r.got <- a
}

// Export implements the service.
func (r *receiver) Export(ctx context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.arrived(req, strings.Join(md["authorization"], "|"), strings.Join(md["user-agent"], "|"))
	return r.answer()
}

// ServeHTTP is the same over HTTP.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(req.Body)
	}
	text, err := io.ReadAll(body)
	message := &collectorpb.ExportTraceServiceRequest{}
	if err != nil || proto.Unmarshal(text, message) != nil || req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "that is not OTLP", http.StatusBadRequest)
		return
	}
	r.arrived(message, req.Header.Get("Authorization"), req.Header.Get("User-Agent"))
	answer, err := r.answer()
	switch code := status.Code(err); {
	case code == codes.Unavailable:
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	case err != nil:
		w.WriteHeader(http.StatusUnauthorized)
	default:
		text, _ = proto.Marshal(answer)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(text)
	}
}

// listen starts the receiver, and returns its URL. config is nil for clear text.
func (r *receiver) listen(t *testing.T, overGRPC bool, config *tls.Config) string {
	t.Helper()
	scheme := map[bool]string{true: "https://", false: "http://"}[config != nil]
	if !overGRPC {
		server := httptest.NewUnstartedServer(r)
		server.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
		if server.TLS = config; config == nil {
			server.Start()
		} else {
			server.StartTLS()
		}
		t.Cleanup(server.Close)
		return server.URL
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	server := grpc.NewServer(options...)
	collectorpb.RegisterTraceServiceServer(server, r)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("receive: %v", err)
		}
	})
	return scheme + l.Addr().String()
}

// certificate is one for 127.0.0.1, and a file that says who signs it.
func certificate(t *testing.T) (*tls.Config, string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	name := filepath.Join(t.TempDir(), "ca.pem")
	write(t, name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}, name
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// senderFrom is one that a configuration makes.
func senderFrom(t *testing.T, env map[string]string, c Config) *sender {
	t.Helper()
	s, on, _, err := from(env, c)
	if err != nil || !on {
		t.Fatalf("on %t: %v", on, err)
	}
	out := newSender(s.destination, "1.2.3")
	t.Cleanup(out.close)
	return out
}

func twoSpans() *tracepb.TracesData {
	return (&resource{}).data([]*item{{trace: traceID{1}, id: spanID{1}, tries: make([]attempt, 1)}})
}

func TestSpansReachARealReceiver(t *testing.T) {
	t.Parallel()
	config, ca := certificate(t)
	for name, tc := range map[string]struct {
		protocol string
		tls      bool
		gzip     bool
	}{
		"HTTP":          {protocol: protocolHTTP},
		"HTTP, TLS":     {protocol: protocolHTTP, tls: true},
		"HTTP, smaller": {protocol: protocolHTTP, gzip: true},
		"gRPC":          {protocol: protocolGRPC},
		"gRPC, TLS":     {protocol: protocolGRPC, tls: true},
		"gRPC, smaller": {protocol: protocolGRPC, gzip: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver()
			env := map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": tc.protocol, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x"}
			if tc.gzip {
				env["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
			}
			if tc.tls {
				env["OTEL_EXPORTER_OTLP_CERTIFICATE"], env[at] = ca, r.listen(t, tc.protocol == protocolGRPC, config)
			} else {
				env[at] = r.listen(t, tc.protocol == protocolGRPC, nil)
			}
			s := senderFrom(t, env, Config{})
			for range 2 {
				if refused, err := s.send(t.Context(), twoSpans()); err != nil || refused != 0 {
					t.Fatalf("send: %d, %v", refused, err)
				}
				want := arrival{spans: 2, header: map[string]string{"authorization": "Bearer x", "user-agent": "outrider/1.2.3"}}
				if diff := cmp.Diff(want, <-r.got, cmp.AllowUnexported(arrival{})); diff != "" {
					t.Errorf("arrived (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestWhatAReceiverAnswersIsUnderstood(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer  *collectorpb.ExportTraceServiceResponse
		err     error
		refused int64
		want    string // of the error
		again   bool
		after   map[bool]time.Duration // by gRPC
	}{
		"a part is refused": {answer: &collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "x"}}, refused: 1},
		"a warning":         {answer: &collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{ErrorMessage: "x"}}},
		"busy":              {err: status.Error(codes.Unavailable, "s3cret"), again: true, want: "the collector has answered", after: map[bool]time.Duration{false: 7 * time.Second}},
		"no":                {err: status.Error(codes.Unauthenticated, "s3cret"), want: "the collector has answered"},
	} {
		for _, protocol := range []string{protocolHTTP, protocolGRPC} {
			t.Run(name+" over "+protocol, func(t *testing.T) {
				t.Parallel()
				r := newReceiver()
				r.answer = func() (*collectorpb.ExportTraceServiceResponse, error) { return tc.answer, tc.err }
				s := senderFrom(t, nil, Config{Endpoint: r.listen(t, protocol == protocolGRPC, nil), Protocol: protocol})
				refused, err := s.send(t.Context(), twoSpans())
				if refused != tc.refused || (err != nil) != (tc.err != nil) {
					t.Fatalf("%d refused, %v", refused, err)
				}
				if err == nil {
					return
				}
				wait, again := errors.AsType[*later](err)
				if again != tc.again || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("again %t: %v", again, err)
				}
				if again && wait.after != tc.after[protocol == protocolGRPC] {
					t.Errorf("after %v", wait.after)
				}
			})
		}
	}
}

func TestReceiverOfAnotherProtocolIsNamed(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := senderFrom(t, nil, Config{Endpoint: r.listen(t, true, nil), Protocol: protocolHTTP})
	if _, err := s.send(t.Context(), twoSpans()); err == nil {
		t.Error("HTTP to a receiver of gRPC is no error")
	}
	plain := httptest.NewUnstartedServer(r)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	plain.Start()
	defer plain.Close()
	s = senderFrom(t, nil, Config{Endpoint: plain.URL, Protocol: protocolGRPC})
	if _, err := s.send(t.Context(), twoSpans()); err == nil || !strings.Contains(err.Error(), "set the protocol to http/protobuf") {
		t.Errorf("gRPC to a receiver of HTTP: %v", err)
	}
}

// A redirect would take the headers to another place.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	elsewhere := r.listen(t, false, nil)
	first := httptest.NewServer(http.RedirectHandler(elsewhere+"/v1/traces", http.StatusTemporaryRedirect))
	defer first.Close()
	s := senderFrom(t, nil, Config{Endpoint: first.URL})
	_, err := s.send(t.Context(), twoSpans())
	if err == nil || !strings.Contains(err.Error(), "307") || len(r.got) != 0 {
		t.Errorf("%d arrived elsewhere, %v", len(r.got), err)
	}
}

func TestAnswerWithoutEndIsNotRead(t *testing.T) {
	t.Parallel()
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-protobuf")
		block := bytes.Repeat([]byte{0xff}, 1<<16)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	s := senderFrom(t, nil, Config{Endpoint: endless.URL})
	if refused, err := s.send(t.Context(), twoSpans()); err != nil || refused != 0 {
		t.Errorf("%d refused, %v", refused, err)
	}
}

func TestReceiverThatHangsEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{protocolHTTP, protocolGRPC} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // the kernel accepts; nobody answers
		s := senderFrom(t, nil, Config{Endpoint: "http://" + l.Addr().String(), Protocol: protocol})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err = s.send(ctx, twoSpans())
		cancel()
		if _, again := errors.AsType[*later](err); !again || !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "http://") {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// Files are of the operator's making, and change.
func TestFilesAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	name := filepath.Join(t.TempDir(), "headers")
	s := senderFrom(t, nil, Config{Endpoint: r.listen(t, false, nil), HeadersFile: name})
	send := func(want string) {
		t.Helper()
		_, err := s.send(t.Context(), twoSpans())
		if want == "" {
			if _, again := errors.AsType[*later](err); !again || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("without good headers: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := (<-r.got).header["authorization"]; got != want {
			t.Errorf("authorization %q, want %q", got, want)
		}
	}
	send("") // the file is not there
	write(t, name, "# of the collector\n\nAuthorization:   one\n")
	send("one")
	write(t, name, "authorization: another\n")
	send("another")
	for _, bad := range []string{"Authorization s3cret", "Host: s3cret", "Author ization: s3cret", "A: s3cret\x00", strings.Repeat("A: s3cret\n", maxHeaders+1), strings.Repeat("#", maxFile+1)} {
		write(t, name, bad)
		send("")
	}
	write(t, name, "Authorization: third time\n")
	send("third time")
}

func TestCollectorWithoutATrustedCertificateGetsNothing(t *testing.T) {
	t.Parallel()
	config, _ := certificate(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, "")
	for name, tc := range map[string]struct{ ca, want string }{
		"the system's roots": {"", "certificate"},
		"no certificate":     {empty, "holds no certificate in PEM"},
		"no file":            {empty + ".not", "no such file"},
	} {
		for _, protocol := range []string{protocolHTTP, protocolGRPC} {
			r := newReceiver()
			s := senderFrom(t, nil, Config{Endpoint: r.listen(t, protocol == protocolGRPC, config), Protocol: protocol, CAFile: tc.ca})
			if _, err := s.send(t.Context(), twoSpans()); err == nil || !strings.Contains(err.Error(), tc.want) || len(r.got) != 0 {
				t.Errorf("%s over %s: %v", name, protocol, err)
			}
		}
	}
}

func TestCertificateIsShownToTheCollector(t *testing.T) {
	t.Parallel()
	config, ca := certificate(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, string(text))
	write(t, key, keyPEM(t, config.Certificates[0].PrivateKey))
	config = config.Clone()
	config.ClientAuth = tls.RequireAnyClientCert
	r := newReceiver()
	env := map[string]string{
		at: r.listen(t, true, config), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_CERTIFICATE": ca,
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": cert, "OTEL_EXPORTER_OTLP_CLIENT_KEY": key,
	}
	if _, err := senderFrom(t, env, Config{}).send(t.Context(), twoSpans()); err != nil || len(r.got) != 1 {
		t.Errorf("%d arrived, %v", len(r.got), err)
	}
}

// The whole way: a Tracing as the agent makes it, to a real receiver.
func TestSpansOfARequestArriveWhenRunEnds(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	env := map[string]string{at: r.listen(t, true, nil), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
	tr, err := New(Options{Env: func(name string) string { return env[name] }, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- tr.Run(ctx) }()
	follow(tr, connect.Header{}, &flow.Record{Service: "web", Tries: []flow.Try{{}}})
	cancel()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	if a := <-r.got; a.spans != 2 || tr.Stats() != (Stats{Made: 2, Sent: 2}) {
		t.Errorf("%d spans arrived, %+v", a.spans, tr.Stats())
	}
}

// What is read of an answer is what the official code reads.
func FuzzAnswer(f *testing.F) {
	for _, partial := range []*collectorpb.ExportTracePartialSuccess{nil, {}, {RejectedSpans: 3, ErrorMessage: "x"}, {RejectedSpans: -1}} {
		good, _ := proto.Marshal(&collectorpb.ExportTraceServiceResponse{PartialSuccess: partial})
		f.Add(good)
		f.Add(append(good, 0x12, 1, 0, 0x0a, 2, 8, 7))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, message := refusedSpans(answer), &collectorpb.ExportTraceServiceResponse{}
		if proto.Unmarshal(answer, message) == nil && got != message.GetPartialSuccess().GetRejectedSpans() {
			t.Fatalf("%d refused, want %v", got, message)
		}
	})
}

func keyPEM(t *testing.T, key any) string {
	t.Helper()
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}
