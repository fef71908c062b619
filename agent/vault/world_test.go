// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/fakevault"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

const rolePath = "connect-intermediate/mesh-web"

var testPKI = PKI{Mount: "connect-intermediate", Role: "mesh-web", TTL: time.Hour}

var web = meshca.ID("web")

// A world is one Vault, one CA and one service, for a test in a synctest
// bubble. When the test ends it proves that no secret reached a log or an error.
type world struct {
	t      *testing.T
	vault  *fakevault.Vault
	root   *meshca.CA
	ca     *meshca.CA
	bundle *connect.TrustBundle
	client *Client
	leaf   *Leaf
	log    *capture

	mu        sync.Mutex
	published []publication
	hidden    []string
}

type publication struct {
	leaf *connect.Leaf
	at   time.Time
}

// A capture is a log that is kept.
type capture struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *capture) lines(parts ...string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
lines:
	for line := range strings.Lines(c.buf.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		found = append(found, line)
	}
	return found
}

// newWorld makes the world of the service "web" without starting anything but
// the fake Vault.
func newWorld(t *testing.T, auth Auth) *world {
	t.Helper()
	w := &world{t: t, root: meshca.New("root"), log: &capture{}}
	w.ca = w.root.Intermediate("intermediate")
	w.bundle = bundleOf(t, w.root, w.ca)
	w.vault = fakevault.New(w.ca, w.root)
	w.vault.SetRole(rolePath, web.String(), nil)
	w.vault.Start(t)
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: w.log})
	client, err := newClient(Config{Address: fakevault.Address, Auth: auth}, logger, w.vault.Dial)
	if err != nil {
		t.Fatal(err)
	}
	w.client = client
	w.leaf = client.NewLeaf(testPKI, func(b *connect.TrustBundle) connect.Identity {
		id := web
		id.TrustDomain = b.TrustDomain
		return id
	}, w.publish, logger)
	w.hide(auth.Token, auth.RoleID, auth.SecretID, "hvs.fake-token", "PRIVATE KEY")
	t.Cleanup(w.checkSecrets)
	return w
}

// bundleOf returns a bundle whose active root signs leaves through signer.
func bundleOf(t *testing.T, root, signer *meshca.CA, more ...connect.Root) *connect.TrustBundle {
	t.Helper()
	active := connect.Root{
		ID: "id-" + root.Cert.Subject.CommonName, Active: true, SigningKeyID: meshca.KeyID(signer.Cert),
		Certificates: []*x509.Certificate{root.Cert}, Intermediates: []*x509.Certificate{signer.Cert},
	}
	bundle, err := connect.NewTrustBundle(meshca.TrustDomain, append([]connect.Root{active}, more...))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func (w *world) publish(leaf *connect.Leaf) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published = append(w.published, publication{leaf, time.Now()})
}

func (w *world) leaves() []publication {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]publication(nil), w.published...)
}

func (w *world) hide(secrets ...string) {
	for _, s := range secrets {
		if s != "" {
			w.hidden = append(w.hidden, s)
		}
	}
}

// run starts one Run for the length of the test and waits for its end.
func (w *world) run(run func(context.Context) error) {
	done := make(chan error, 1)
	ctx := w.t.Context()
	go func() { done <- run(ctx) }()
	w.t.Cleanup(func() {
		if err := <-done; err != nil {
			w.t.Errorf("Run ended with %v, want nil", err)
		}
	})
}

// start runs the client and the leaf and gives the leaf its bundle.
func (w *world) start() {
	w.run(w.client.Run)
	w.run(w.leaf.Run)
	w.leaf.SetBundle(w.bundle)
	synctest.Wait()
}

// pass lets time pass in the bubble.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) checkSecrets() {
	text := strings.Join(w.log.lines(), "")
	if err := w.leaf.Status().LastError; err != nil {
		text += err.Error()
	}
	secrets := w.hidden
	for _, p := range w.leaves() {
		key, err := p.leaf.Key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			w.t.Error(err)
		}
		secrets = append(secrets, string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key))
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			w.t.Errorf("the secret %q is in a log line or an error:\n%s", secret, text)
		}
	}
}

// signs returns the requests to sign that got a status.
func (w *world) signs(status int) []fakevault.Request {
	var found []fakevault.Request
	for _, r := range w.vault.Requests("connect-intermediate/sign/") {
		if r.Status == status {
			found = append(found, r)
		}
	}
	return found
}

// write makes a credential file, or gives it a new content.
func write(t *testing.T, path, content string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "credential")
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// contains fails the test for each part that text lacks.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}
