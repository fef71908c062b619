// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake is a metadata service over connections in memory.
type fake struct {
	handler http.Handler

	mu    sync.Mutex
	asked []string // method and path with query
	dials []string
	down  error // of dialing
}

// client returns a client whose connections, wherever they go, reach the fake.
func (f *fake) client(t *testing.T, patience time.Duration) *Client {
	t.Helper()
	conns := make(chan net.Conn)
	done := make(chan struct{})
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	server.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(pipes{conns, done}) // It always ends with ErrServerClosed.
	}()
	t.Cleanup(func() {
		close(done)
		_ = server.Close()
		<-ended
	})
	return newClient(patience, func(ctx context.Context, _, address string) (net.Conn, error) {
		f.mu.Lock()
		f.dials = append(f.dials, address)
		down := f.down
		f.mu.Unlock()
		if down != nil {
			return nil, down
		}
		ours, theirs := net.Pipe()
		select {
		case conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
	f.mu.Unlock()
	f.handler.ServeHTTP(w, r)
}

// questions returns what was asked so far.
func (f *fake) questions() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.asked, "\n")
}

func (f *fake) setDown(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.IPAddr{} }

// cloudOf answers as the documentation of a cloud describes, from a table of
// paths. Each insists on what it insists on in life.
func cloudOf(name string, answers map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name {
		case awsName:
			if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "" {
				_, _ = w.Write([]byte("imds-token"))
				return
			}
			if r.Method == http.MethodGet && r.Header.Get("X-aws-ec2-metadata-token") != "imds-token" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		case gcpName:
			w.Header().Set("Metadata-Flavor", "Google")
			if r.Header.Get("Metadata-Flavor") != "Google" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
		case azureName:
			if r.Header.Get("Metadata") != "true" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
		}
		answer, ok := answers[r.URL.RequestURI()]
		if !ok || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(answer))
	})
}

const azureInstancePath = "/metadata/instance?api-version=2021-02-01&format=json"

const azureText = `{"compute":{"vmId":"02aab8a4-74ef-476e-8182-f6d2ba4166a6","vmSize":"Standard_A3","name":"web-7","location":"westeurope","zone":"2",
"subscriptionId":"8d10da13-8125-4ba9-a717-bf7490507b3d","resourceGroupName":"mesh","vmScaleSetName":"","tagsList":[{"name":"Environment","value":"prod"}]},
"network":{"interface":[{"ipv4":{"ipAddress":[{"privateIpAddress":"10.144.133.132","publicIpAddress":""}]}}]}}`

func clouds() map[string]http.Handler {
	return map[string]http.Handler{
		awsName: cloudOf(awsName, map[string]string{
			"/latest/meta-data/instance-id":                 "i-0abc12de3f4567890",
			"/latest/meta-data/instance-type":               "t3.micro",
			"/latest/meta-data/placement/region":            "eu-central-1",
			"/latest/meta-data/placement/availability-zone": "eu-central-1b\n",
			"/latest/meta-data/local-ipv4":                  "10.0.1.17",
			"/latest/meta-data/public-ipv4":                 "198.51.100.7",
			"/latest/dynamic/instance-identity/document":    `{"accountId" : "123456789012", "region" : "eu-central-1"}`,
			"/latest/meta-data/tags/instance/Environment":   "prod",
			"/latest/meta-data/tags/instance/Two%20words":   "a b",
		}),
		gcpName: cloudOf(gcpName, map[string]string{
			"/computeMetadata/v1/instance/id":                                                       "3245728965346437643",
			"/computeMetadata/v1/instance/machine-type":                                             "projects/123456/machineTypes/e2-small",
			"/computeMetadata/v1/instance/zone":                                                     "projects/123456/zones/europe-west3-a",
			"/computeMetadata/v1/project/project-id":                                                "mesh-prod",
			"/computeMetadata/v1/instance/network-interfaces/0/ip":                                  "10.156.0.2",
			"/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip":        "",
			"/computeMetadata/v1/instance/attributes/Environment":                                   "prod",
			"/computeMetadata/v1/instance/service-accounts/default/identity?audience=a&format=full": "proof.of.google",
		}),
		azureName: cloudOf(azureName, map[string]string{azureInstancePath: azureText}),
	}
}
