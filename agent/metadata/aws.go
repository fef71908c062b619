// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const awsName = "aws"

// aws is EC2's instance metadata service, version 2 (Amazon EC2 user guide, "Use
// the Instance Metadata Service"): a token is asked for with a PUT, which a
// tricked web application cannot send for somebody else, and goes with each
// request. Version 1 is not used.
type aws struct{ c *Client }

func (aws) name() string { return awsName }

// tokenLife is short: a token that leaks is of no use tomorrow.
const tokenLife = "300" // seconds

func (a aws) present(ctx context.Context) (bool, error) {
	err := a.renew(ctx)
	return err == nil, err
}

func (a aws) renew(ctx context.Context) error {
	_, token, err := a.c.ask(ctx, question{
		method: http.MethodPut, path: "/latest/api/token",
		header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": tokenLife},
	})
	if err != nil {
		return err
	}
	if !isProof(token) || len(token) > maxTag {
		return errForeign
	}
	a.c.token = token
	return nil
}

// get asks with a token, and once more with a new one when the old has ended.
func (a aws) get(ctx context.Context, path string) (string, error) {
	if a.c.token == "" {
		if err := a.renew(ctx); err != nil {
			return "", err
		}
	}
	for again := false; ; again = true {
		_, body, err := a.c.ask(ctx, question{path: path, header: map[string]string{"X-aws-ec2-metadata-token": a.c.token}})
		if r, ok := errors.AsType[*refused](err); !ok || r.status != http.StatusUnauthorized || again {
			return strings.TrimSpace(body), err
		}
		if err := a.renew(ctx); err != nil {
			return "", err
		}
	}
}

func (a aws) value(ctx context.Context, name string) (string, error) {
	if key, ok := strings.CutPrefix(name, "tags."); ok {
		return a.get(ctx, "/latest/meta-data/tags/instance/"+key)
	}
	paths := map[string]string{
		"instance_id": "instance-id", "instance_type": "instance-type",
		"region": "placement/region", "zone": "placement/availability-zone",
		"private_ip": "local-ipv4", "public_ip": "public-ipv4",
	}
	if path, ok := paths[name]; ok {
		return a.get(ctx, "/latest/meta-data/"+path)
	}
	if name != "account" {
		return "", &refused{http.StatusNotFound}
	}
	text, err := a.get(ctx, "/latest/dynamic/instance-identity/document")
	if err != nil {
		return "", err
	}
	var document struct {
		Account string `json:"accountId"`
	}
	if json.Unmarshal([]byte(text), &document) != nil {
		return "", errForeign
	}
	return document.Account, nil
}

// RoleKeys are the keys of the IAM role of a machine. They end after hours.
type RoleKeys struct{ ID, Secret, Session string }

// RoleKeys returns the keys of the IAM role that the machine's instance profile
// names. It asks once and each time anew.
func (c *Client) RoleKeys(ctx context.Context) (RoleKeys, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys, err := aws{c}.roleKeys(ctx)
	if r, ok := errors.AsType[*refused](err); ok && r.status == http.StatusNotFound {
		return RoleKeys{}, errors.New("ask AWS for the keys of this machine's IAM role: it has none: attach an instance profile with a role to the machine")
	}
	if err != nil {
		return RoleKeys{}, fmt.Errorf("ask AWS for the keys of this machine's IAM role: %w: is this machine in AWS, and may this user reach 169.254.169.254?", err)
	}
	return keys, nil
}

func (a aws) roleKeys(ctx context.Context) (RoleKeys, error) {
	const path = "/latest/meta-data/iam/security-credentials/"
	names, err := a.get(ctx, path)
	if err != nil {
		return RoleKeys{}, err
	}
	role, _, _ := strings.Cut(names, "\n")
	if role == "" || len(role) > maxValue || !within(role, "+=,.@_-") {
		return RoleKeys{}, fmt.Errorf("the name of the role is strange: %w", errForeign)
	}
	text, err := a.get(ctx, path+role)
	if err != nil {
		return RoleKeys{}, err
	}
	var answer struct {
		Code            string
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
	}
	if json.Unmarshal([]byte(text), &answer) != nil {
		return RoleKeys{}, errForeign
	}
	if answer.Code != "Success" || !isProof(answer.AccessKeyID) || !isProof(answer.SecretAccessKey) || !isProof(answer.Token) {
		return RoleKeys{}, fmt.Errorf("it has no keys for the role %s: does the role trust ec2.amazonaws.com?: %w", role, errForeign)
	}
	return RoleKeys{ID: answer.AccessKeyID, Secret: answer.SecretAccessKey, Session: answer.Token}, nil
}
