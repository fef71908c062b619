// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// An identityRequest is the request GetCallerIdentity of AWS's STS, signed and
// not sent: Vault sends it and learns from AWS who signed it (Vault
// documentation, AWS auth method, "IAM auth method"). AWS takes it for fifteen
// minutes.
type identityRequest struct {
	keys     RoleKeys
	region   string // "" means the global endpoint
	serverID string // "" sends none
	at       time.Time
}

const identityBody = "Action=GetCallerIdentity&Version=2011-06-15"

// login returns the body of a login, without the role.
func (r identityRequest) login() (map[string]any, error) {
	host, region := "sts.amazonaws.com", "us-east-1"
	if r.region != "" {
		region = r.region
		host = "sts." + region + ".amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			host += ".cn"
		}
	}
	header := http.Header{}
	header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	header.Set("X-Amz-Date", r.at.UTC().Format(amzDate))
	if r.keys.Session != "" {
		header.Set("X-Amz-Security-Token", r.keys.Session)
	}
	if r.serverID != "" {
		// Signed with the rest, it keeps one Vault from using at another what it
		// was given.
		header.Set("X-Vault-AWS-IAM-Server-ID", r.serverID)
	}
	s := signable{method: http.MethodPost, host: host, path: "/", header: header, body: identityBody}
	header.Set("Authorization", s.authorization(r.keys, region, "sts", r.at))
	encoded, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode the headers of the request to AWS: %w", err)
	}
	code := base64.StdEncoding.EncodeToString
	return map[string]any{
		"iam_http_request_method": s.method,
		"iam_request_url":         code([]byte("https://" + host + s.path)),
		"iam_request_body":        code([]byte(s.body)),
		"iam_request_headers":     code(encoded),
	}, nil
}

const (
	amzDate   = "20060102T150405Z"
	algorithm = "AWS4-HMAC-SHA256"
)

// A signable is a request to AWS. Its path and query are in canonical form.
type signable struct {
	method, host, path, query, body string
	header                          http.Header // all of them are signed
}

// authorization returns the header Authorization of AWS's Signature Version 4
// (AWS IAM user guide, "Create a signed AWS API request"). The library for it
// would bring along AWS's whole SDK for these lines.
func (s signable) authorization(keys RoleKeys, region, service string, at time.Time) string {
	names := []string{"host"}
	values := map[string]string{"host": s.host}
	for name, list := range s.header {
		name = strings.ToLower(name)
		names = append(names, name)
		values[name] = strings.Join(strings.Fields(strings.Join(list, ",")), " ")
	}
	slices.Sort(names)
	var canonical strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		canonical.WriteString(name + ":" + values[name] + "\n")
	}
	signed := strings.Join(names, ";")
	request := strings.Join([]string{s.method, s.path, s.query, canonical.String(), signed, sum(s.body)}, "\n")
	stamp := at.UTC().Format(amzDate)
	scope := strings.Join([]string{stamp[:len("20060102")], region, service, "aws4_request"}, "/")
	toSign := strings.Join([]string{algorithm, stamp, scope, sum(request)}, "\n")
	key := []byte("AWS4" + keys.Secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s", algorithm, keys.ID, scope, signed, hex.EncodeToString(mac(key, toSign)))
}

func sum(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // It never fails.
	return h.Sum(nil)
}
