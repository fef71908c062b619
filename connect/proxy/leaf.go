// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// leafEnded says why no handshake with a leaf succeeds at now; nil when it may. A
// leaf without certificates has no end.
func leafEnded(l *connect.Leaf, now time.Time) error {
	if len(l.Chain) == 0 || l.NotAfter().IsZero() || !now.After(l.NotAfter()) {
		return nil
	}
	return &connect.PeerError{Reason: connect.TLSFailed, Err: fmt.Errorf("our own leaf expired at %s, so that peers refuse it; status says why there is no newer one", l.NotAfter().UTC().Format(time.RFC3339))}
}

// presenting keeps a leaf that has expired from being presented: under TLS 1.3
// the peer refuses it only after our side of the handshake, and what can be told
// then is no more than that the connection broke.
func presenting(l *connect.Leaf, cfg *tls.Config) *tls.Config {
	present := cfg.GetClientCertificate
	cfg.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if err := leafEnded(l, time.Now()); err != nil {
			return nil, err
		}
		return present(asked)
	}
	return cfg
}
