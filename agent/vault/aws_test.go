// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The request and its signature are those of AWS's documentation of Signature
// Version 4: ListUsers of IAM on 30 August 2015.
func TestSignatureIsThatOfAWSsOwnExample(t *testing.T) {
	s := signable{
		method: http.MethodGet, host: "iam.amazonaws.com", path: "/", query: "Action=ListUsers&Version=2010-05-08",
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}, "X-Amz-Date": {"20150830T123600Z"}},
	}
	keys := RoleKeys{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	got := s.authorization(keys, "us-east-1", "iam", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, " +
		"Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	if got != want {
		t.Errorf("Authorization is\n%s, want\n%s", got, want)
	}
}

func TestLoginToAWSIsASignedRequestToTheSTSOfTheRegion(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for region, host := range map[string]string{
		"": "sts.amazonaws.com", "eu-central-1": "sts.eu-central-1.amazonaws.com", "cn-north-1": "sts.cn-north-1.amazonaws.com.cn",
	} {
		data, err := identityRequest{keys: RoleKeys{"ID", "SECRET-KEY", "SESSION"}, region: region, serverID: "vault.mesh", at: at}.login()
		if err != nil {
			t.Fatal(err)
		}
		if got := decode(t, data["iam_request_url"]); got != "https://"+host+"/" {
			t.Errorf("%q: URL %q", region, got)
		}
		if got := decode(t, data["iam_request_body"]); got != "Action=GetCallerIdentity&Version=2011-06-15" {
			t.Errorf("body %q", got)
		}
		var header http.Header
		text := decode(t, data["iam_request_headers"])
		if err := json.Unmarshal([]byte(text), &header); err != nil {
			t.Fatal(err)
		}
		const signed = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id, "
		if !strings.Contains(header.Get("Authorization"), signed) || header.Get("X-Vault-AWS-IAM-Server-ID") != "vault.mesh" ||
			header.Get("X-Amz-Date") != "20300102T030405Z" || header.Get("X-Amz-Security-Token") != "SESSION" {
			t.Errorf("headers %v", header)
		}
		if strings.Contains(text, "SECRET-KEY") {
			t.Error("the secret key is sent")
		}
	}
}

func decode(t *testing.T, v any) string {
	t.Helper()
	text, _ := v.(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
