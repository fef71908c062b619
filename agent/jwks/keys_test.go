// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestOnlyPublicKeysArePublished(t *testing.T) {
	for name, tc := range map[string]struct{ in, want, err string }{
		"public":            {`{"keys":[{"kty":"RSA","n":"x","e":"AQAB","kid":"1"}],"more":1}`, `{"keys":[{"e":"AQAB","kid":"1","kty":"RSA","n":"x"}]}`, ""},
		"private":           {`{"keys":[{"kty":"RSA","n":"x","d":"s3cret","p":"s3cret","q":"s3cret","dp":"s3cret","dq":"s3cret","qi":"s3cret","oth":[{"d":"s3cret"}]}]}`, `{"keys":[{"kty":"RSA","n":"x"}]}`, ""},
		"symmetric between": {`{"keys":[{"kty":"oct","k":"s3cret"},{"kty":"EC","x":"1","k":"s3cret"}]}`, `{"keys":[{"kty":"EC","x":"1"}]}`, ""},
		"symmetric only":    {`{"keys":[{"kty":"oct","k":"s3cret"}]}`, "", "no public key"},
		"empty":             {"", "", "breaks off"},
		"no keys":           {`{}`, "", "no public key"},
		"null":              {`null`, "", "no public key"},
		"a list":            {`[]`, "", "array"},
		"keys are text":     {`{"keys":"s3cret"}`, "", "string"},
		"key is text":       {`{"keys":["s3cret"]}`, "", "string"},
		"key is null":       {`{"keys":[null]}`, "", "key 1 of it has no type"},
		"no type":           {`{"keys":[{"kty":"EC"},{"kid":"s3cret"}]}`, "", "key 2 of it has no type"},
		"type is a number":  {`{"keys":[{"kty":1}]}`, "", "no type"},
		"text behind it":    {`{"keys":[{"kty":"EC"}]} s3cret`, "", "goes wrong"},
		"too big":           {`{"keys":[]}` + strings.Repeat(" ", maxKeys), "", "larger"},
	} {
		got, err := publicKeys([]byte(tc.in))
		if got != tc.want || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error quotes the content: %v", name, err)
		}
	}
}

func FuzzPublicKeys(f *testing.F) {
	f.Add([]byte(set("1")))
	f.Add([]byte(`{"keys":[{"kty":"RSA","d":"x"},{"kty":"oct","k":"x"}]}`))
	f.Add([]byte(`{"KEYS":[{"kty":"EC","D":"x"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := publicKeys(body)
		if err != nil {
			return
		}
		var got struct {
			Keys []map[string]json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Keys) == 0 {
			t.Fatalf("%q: %v", out, err)
		}
		for _, key := range got.Keys {
			for member := range key {
				if secret(member) {
					t.Errorf("%q has %q", out, member)
				}
			}
		}
		if again, err := publicKeys([]byte(out)); err != nil || again != out {
			t.Errorf("%q becomes %q, %v", out, again, err)
		}
	})
}
