// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const gcpName = "gcp"

// gcp is the metadata server of Compute Engine (Google Cloud documentation,
// "About VM metadata"). The header proves on both sides that the request and
// the answer are meant.
type gcp struct{ c *Client }

func (gcp) name() string { return gcpName }

func (g gcp) present(ctx context.Context) (bool, error) {
	_, err := g.get(ctx, question{path: "instance/id"})
	return err == nil, err
}

func (g gcp) get(ctx context.Context, q question) (string, error) {
	q.path = "/computeMetadata/v1/" + q.path
	q.header = map[string]string{"Metadata-Flavor": "Google"}
	header, body, err := g.c.ask(ctx, q)
	if err != nil {
		return "", err
	}
	if header.Get("Metadata-Flavor") != "Google" {
		return "", errForeign
	}
	return strings.TrimSpace(body), nil
}

func (g gcp) value(ctx context.Context, name string) (string, error) {
	if key, ok := strings.CutPrefix(name, "tags."); ok {
		return g.get(ctx, question{path: "instance/attributes/" + key})
	}
	paths := map[string]string{
		"instance_id": "instance/id", "instance_type": "instance/machine-type",
		"region": "instance/zone", "zone": "instance/zone", "account": "project/project-id",
		"private_ip": "instance/network-interfaces/0/ip",
		"public_ip":  "instance/network-interfaces/0/access-configs/0/external-ip",
	}
	path, ok := paths[name]
	if !ok {
		return "", &refused{http.StatusNotFound}
	}
	text, err := g.get(ctx, question{path: path})
	if err != nil {
		return "", err
	}
	text = lastPart(text) // of projects/123/zones/europe-west3-a
	if name == "region" {
		text = text[:max(0, strings.LastIndexByte(text, '-'))]
	}
	if text == "" && name == "public_ip" {
		return "", &refused{http.StatusNotFound}
	}
	return text, nil
}

// ServiceAccountToken returns a token of Google for an audience, which names
// the machine as well as its service account; account "" is the default one. It
// asks once and each time anew.
func (c *Client) ServiceAccountToken(ctx context.Context, account, audience string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	account = cmp.Or(account, "default")
	token, err := gcp{c}.get(ctx, question{
		path:  "instance/service-accounts/" + account + "/identity",
		query: url.Values{"audience": {audience}, "format": {"full"}}, timeout: proofTimeout,
	})
	if err == nil && !isProof(token) {
		err = errForeign
	}
	if err != nil {
		return "", fmt.Errorf("ask Google Cloud for an identity token of the service account %s: %w: does this machine run there with that service account, and may this user reach 169.254.169.254?", account, err)
	}
	return token, nil
}
