// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxCertificates bounds one PEM bundle: a chain or a root list of more is not
// a mesh's.
const maxCertificates = 64

// ParseCertificates reads every certificate of a PEM bundle. Text between
// blocks is ignored; a block of another type, an unreadable certificate, an
// empty bundle and one of more than 64 certificates are errors.
func ParseCertificates(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bundle; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is a %q, want CERTIFICATE", len(certs)+1, block.Type)
		}
		if len(certs) == maxCertificates {
			return nil, fmt.Errorf("PEM bundle holds more than %d certificates", maxCertificates)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("PEM bundle holds no certificate")
	}
	return certs, nil
}
