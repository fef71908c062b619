// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/outrider-mesh/outrider/connect"
)

func TestEveryAcceptedAlgorithmVerifies(t *testing.T) {
	t.Parallel()
	v := verifier(t, provider(t))
	for _, tc := range []struct {
		alg jose.SignatureAlgorithm
		key any
		kid string
	}{
		{jose.RS256, rsaKey(), "rsa"}, {jose.RS384, rsaKey(), "rsa"}, {jose.RS512, rsaKey(), "rsa"},
		{jose.PS256, rsaKey(), "rsa"}, {jose.PS384, rsaKey(), "rsa"}, {jose.PS512, rsaKey(), "rsa"},
		{jose.ES256, p256(), "p256"}, {jose.ES384, p384(), "p384"}, {jose.ES512, p521(), "p521"},
		{jose.EdDSA, edKey(), "ed"},
	} {
		for _, kid := range []string{tc.kid, ""} {
			token, err := v.Verify(bearer(sign(t, tc.alg, tc.key, kid, payload(t, nil), nil)), now())
			if err != nil {
				t.Errorf("%s, kid %q: %v", tc.alg, kid, err)
				continue
			}
			if err := token.Meets([]connect.JWTClaim{{Path: []string{"sub"}, Value: "alice"}}); err != nil {
				t.Errorf("%s, kid %q: %v", tc.alg, kid, err)
			}
		}
	}
}

// Each forgery is one that some verifier has fallen for.
func TestForgeriesAreRefused(t *testing.T) {
	t.Parallel()
	good := payload(t, nil)
	der, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	hmacOver := func(header string, secret []byte) string {
		input := b64(header) + "." + b64(good)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	// The header has bits to spare in its last letter: its length is not a
	// multiple of three.
	valid := sign(t, jose.RS256, rsaKey(), "rsa", good, nil)
	part := strings.Split(valid, ".")
	evil, err := json.Marshal(jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "rsa"})
	if err != nil {
		t.Fatal(err)
	}
	encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP, Key: rsaKey().Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := encrypter.Encrypt([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := encrypted.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	var embedded any
	if err := json.Unmarshal(evil, &embedded); err != nil {
		t.Fatal(err)
	}
	twice := strings.Replace(good, `"sub":"alice"`, `"sub":"alice","sub":"root"`, 1)
	deep := strings.Replace(good, `"sub":"alice"`, `"o":{"role":"user","role":"admin"}`, 1)

	for name, tc := range map[string]struct{ token, want string }{
		"alg none, no signature":        {assemble(`{"alg":"none"}`, good, nil), `algorithm "none" is not accepted`},
		"alg None":                      {assemble(`{"alg":"None"}`, good, nil), `algorithm "None" is not accepted`},
		"alg none, a signature":         {b64(`{"alg":"none","kid":"rsa"}`) + "." + part[1] + "." + part[2], `is not accepted`},
		"no alg":                        {assemble(`{"kid":"rsa"}`, good, nil), `algorithm "" is not accepted`},
		"alg is a list":                 {assemble(`{"alg":["RS256"]}`, good, nil), `is not accepted`},
		"alg in capitals hides another": {assemble(`{"ALG":"RS256","alg":"none"}`, good, nil), `is not accepted`},
		"HMAC with the public key, DER": {hmacOver(`{"alg":"HS256","kid":"rsa"}`, der), `algorithm "HS256" is not accepted`},
		"HMAC with the public key, PEM": {hmacOver(`{"alg":"HS256","kid":"rsa"}`, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), `is not accepted`},
		"HMAC with an empty secret":     {hmacOver(`{"alg":"HS256"}`, nil), `is not accepted`},
		"kid of no key":                 {sign(t, jose.RS256, rsaKey(), "nobody", good, nil), `no key with id "nobody"`},
		"kid is a path":                 {sign(t, jose.RS256, otherRSA(), "../../../dev/null", good, nil), `no key with id "../../../dev/null"`},
		"kid is a query":                {sign(t, jose.RS256, otherRSA(), "x' UNION SELECT 'k", good, nil), `no key with id`},
		"kid is long":                   {sign(t, jose.RS256, otherRSA(), strings.Repeat("k", 4000), good, nil), `no key with id`},
		"kid is of another type of key": {sign(t, jose.RS256, rsaKey(), "p256", good, nil), `no key with id "p256" for algorithm RS256`},
		"kid of ours, key of theirs":    {sign(t, jose.RS256, otherRSA(), "rsa", good, nil), `the signature is not of a key of the provider`},
		"no kid, key of theirs":         {sign(t, jose.RS256, otherRSA(), "", good, nil), `the signature is not of a key of the provider`},
		"brings its own key":            {sign(t, jose.RS256, otherRSA(), "", good, map[jose.HeaderKey]any{"jwk": embedded}), `the signature is not of a key`},
		"brings its own key, broken":    {assemble(`{"alg":"RS256","jwk":{"kty":"x"}}`, good, []byte("x")), `malformed`},
		"says where its key is":         {sign(t, jose.RS256, otherRSA(), "", good, map[jose.HeaderKey]any{"jku": "http://evil.example/keys"}), `the signature is not of a key`},
		"payload changed":               {part[0] + "." + b64(strings.Replace(good, "alice", "admin", 1)) + "." + part[2], `the signature is not of a key`},
		"header changed":                {b64(`{"alg":"RS384","kid":"rsa"}`) + "." + part[1] + "." + part[2], `the signature is not of a key`},
		"PSS told as PKCS1":             {b64(`{"alg":"PS256","kid":"rsa"}`) + "." + part[1] + "." + part[2], `the signature is not of a key`},
		"signature empty":               {part[0] + "." + part[1] + ".", `the signature is not of a key`},
		"signature cut":                 {part[0] + "." + part[1] + "." + part[2][:300], `the signature is not of a key`},
		"ES256 signature of zeros":      {assemble(`{"alg":"ES256","kid":"p256"}`, good, make([]byte, 64)), `the signature is not of a key`},
		"EdDSA signature of zeros":      {assemble(`{"alg":"EdDSA","kid":"ed"}`, good, make([]byte, 64)), `the signature is not of a key`},
		"a critical extension":          {sign(t, jose.RS256, rsaKey(), "rsa", good, map[jose.HeaderKey]any{"crit": []string{"exp"}, "exp": 1}), `"crit": no extension`},
		"payload not encoded":           {sign(t, jose.RS256, rsaKey(), "rsa", good, map[jose.HeaderKey]any{"b64": true}), `"b64": no extension`},
		"encrypted":                     {jwe, `has 5 parts`},
		"as JSON":                       {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, `has 1 parts`},
		"a name twice":                  {sign(t, jose.RS256, rsaKey(), "rsa", twice, nil), `distinct names`},
		"a name twice, deep":            {sign(t, jose.RS256, rsaKey(), "rsa", deep, nil), `distinct names`},
		"a header name twice":           {b64(`{"alg":"RS256","alg":"RS256"}`) + "." + part[1] + "." + part[2], `malformed`},
		"payload is a list":             {sign(t, jose.RS256, rsaKey(), "rsa", `[]`, nil), `not a JSON object`},
		"payload is null":               {sign(t, jose.RS256, rsaKey(), "rsa", `null`, nil), `not a JSON object`},
		"payload goes on":               {sign(t, jose.RS256, rsaKey(), "rsa", good+`{}`, nil), `not a JSON object`},
		"payload empty":                 {sign(t, jose.RS256, rsaKey(), "rsa", ``, nil), `not a JSON object`},
		"nested too deep to be a token": {sign(t, jose.RS256, rsaKey(), "rsa", strings.Repeat("[", 5000), nil), `not a JSON object`},
		"one part":                      {"garbage", `has 1 parts`},
		"many dots":                     {strings.Repeat(".", 8000), `has 8001 parts`},
		"three empty parts":             {"..", `is not accepted`},
		"padding":                       {part[0] + "=." + part[1] + "." + part[2], `not base64url`},
		"a line break":                  {part[0] + ".\n" + part[1] + "." + part[2], `not base64url`},
		"another spelling":              {part[0][:len(part[0])-1] + string(part[0][len(part[0])-1]+1) + "." + part[1] + "." + part[2], `not base64url`},
		"not base64url":                 {part[0] + ".+/." + part[2], `not base64url`},
		"a NUL":                         {part[0] + "\x00." + part[1] + "." + part[2], `not base64url`},
		"two in one value":              {valid + ", Bearer " + valid, `parts`},
		"a comment after it":            {valid + " x", `not base64url`},
		"oversize":                      {valid + strings.Repeat("A", maxToken), `at most 8192`},
		"header is no JSON":             {assemble(`alg`, good, []byte("x")), `malformed`},
		"header is a number":            {assemble(`1`, good, []byte("x")), `malformed`},
		"header is null":                {assemble(`null`, good, []byte("x")), `malformed`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := verifier(t, provider(t))
			for range 2 { // a refusal is not remembered as anything else
				_, err := v.Verify(bearer(tc.token), now())
				refused(t, err, tc.want, tc.token)
			}
		})
	}
}

func TestOwnKeyInTheHeaderIsIgnoredWhenOursSigned(t *testing.T) {
	t.Parallel()
	token := sign(t, jose.RS256, rsaKey(), "rsa", payload(t, nil), map[jose.HeaderKey]any{"jwk": jwk("evil", otherRSA())})
	if _, err := verifier(t, provider(t)).Verify(bearer(token), now()); err != nil {
		t.Error(err)
	}
}

func TestIssuerAudienceAndTimesDecide(t *testing.T) {
	t.Parallel()
	at := now().Unix()
	for name, tc := range map[string]struct {
		claims fields
		aud    []string
		skew   time.Duration
		want   string // "" means accepted
	}{
		"good":                                {},
		"issuer differs":                      {claims: fields{"iss": "https://evil.example"}, want: `issuer is "https://evil.example", want "https://issuer.example"`},
		"issuer differs in case":              {claims: fields{"iss": "https://Issuer.example"}, want: "issuer is"},
		"issuer with a slash":                 {claims: fields{"iss": issuer + "/"}, want: "issuer is"},
		"issuer is long":                      {claims: fields{"iss": strings.Repeat("x", 5000)}, want: "issuer is"},
		"no issuer":                           {claims: fields{"iss": nil}, want: "names no issuer"},
		"issuer is a list":                    {claims: fields{"iss": []string{issuer}}, want: "names no issuer"},
		"audience not asked for":              {claims: fields{"aud": "x"}},
		"audience":                            {claims: fields{"aud": "api"}, aud: []string{"web", "api"}},
		"audience in a list":                  {claims: fields{"aud": []string{"x", "api"}}, aud: []string{"api"}},
		"another audience":                    {claims: fields{"aud": []string{"x", "y"}}, aud: []string{"api"}, want: `audience is "x, y", want one of ["api"]`},
		"no audience":                         {aud: []string{"api"}, want: "names no audience"},
		"empty list of audiences":             {claims: fields{"aud": []string{}}, aud: []string{"api"}, want: "names no audience"},
		"audiences joined by hand":            {claims: fields{"aud": "x, api"}, aud: []string{"api"}, want: "audience is"},
		"audience is a number":                {claims: fields{"aud": 5}, want: "claim aud"},
		"audience list holds a number":        {claims: fields{"aud": []any{"api", 5}}, aud: []string{"api"}, want: "claim aud"},
		"no expiry":                           {claims: fields{"exp": nil}},
		"expired within the default skew":     {claims: fields{"exp": at - 29}},
		"expired at the default skew":         {claims: fields{"exp": at - 30}, want: "the token expired at 2026-01-02T03:03:35Z"},
		"expired within a wider skew":         {claims: fields{"exp": at - 59}, skew: time.Minute},
		"expired, no skew":                    {claims: fields{"exp": at}, skew: -1, want: "expired"},
		"not expired, no skew":                {claims: fields{"exp": at + 1}, skew: -1},
		"expiry in part of a second":          {claims: fields{"exp": float64(at) - 29.5}, want: "expired"},
		"expiry zero":                         {claims: fields{"exp": 0}, want: "the token expired at 1970-01-01T00:00:00Z"},
		"expiry is text":                      {claims: fields{"exp": "9999999999"}, want: "claim exp is not a time"},
		"expiry is null":                      {claims: fields{"exp": json.RawMessage("null")}, want: "claim exp is not a time"},
		"expiry is negative":                  {claims: fields{"exp": -1}, want: "claim exp is not a time"},
		"expiry beyond numbers":               {claims: fields{"exp": json.RawMessage("1e400")}, want: "malformed"},
		"expiry beyond time":                  {claims: fields{"exp": json.RawMessage("1e300")}, want: "claim exp is not a time"},
		"starts within the skew":              {claims: fields{"nbf": at + 30}},
		"starts after the skew":               {claims: fields{"nbf": at + 31}, want: "the token is not valid before 2026-01-02T03:04:36Z"},
		"starts after the skew, by a half":    {claims: fields{"nbf": float64(at) + 30.5}, want: "not valid before"},
		"start is text":                       {claims: fields{"nbf": "0"}, want: "claim nbf is not a time"},
		"issued in the future is not our job": {claims: fields{"iat": at + 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider(t)
			p.Audiences, p.ClockSkew = tc.aud, tc.skew
			token := sign(t, jose.ES256, p256(), "p256", payload(t, tc.claims), nil)
			_, err := verifier(t, p).Verify(bearer(token), now())
			if tc.want != "" {
				refused(t, err, tc.want, token)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	token := sign(t, jose.ES256, p256(), "p256", payload(t, fields{
		"role": "admin", "groups": []any{"ops", "dev", 7}, "level": 5, "ok": true, "gone": json.RawMessage("null"),
		"perms": map[string]any{"role": "user", "list": []string{"a"}, "deep": map[string]any{"x": "y"}},
		"a.b":   "dotted", "empty": "",
	}), nil)
	got, err := verifier(t, provider(t)).Verify(bearer(token), now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path  []string
		value string
		met   bool
	}{
		{[]string{"role"}, "admin", true},
		{[]string{"role"}, "Admin", false},
		{[]string{"role"}, "adm", false},
		{[]string{"Role"}, "admin", false},
		{[]string{"groups"}, "dev", true},
		{[]string{"groups"}, "de", false},
		{[]string{"groups"}, "7", false},
		{[]string{"groups", "0"}, "ops", false},
		{[]string{"level"}, "5", false},
		{[]string{"ok"}, "true", false},
		{[]string{"gone"}, "", false},
		{[]string{"gone"}, "null", false},
		{[]string{"missing"}, "", false},
		{[]string{"empty"}, "", true},
		{[]string{"perms", "role"}, "user", true},
		{[]string{"perms", "role", "x"}, "user", false},
		{[]string{"perms", "list"}, "a", true},
		{[]string{"perms", "deep", "x"}, "y", true},
		{[]string{"perms"}, "", false},
		{[]string{"a", "b"}, "dotted", false},
		{[]string{"a.b"}, "dotted", true},
		{nil, "", false},
	} {
		if met := got.Meets([]connect.JWTClaim{{Path: tc.path, Value: tc.value}}) == nil; met != tc.met {
			t.Errorf("claim %v = %q: met is %v, want %v", tc.path, tc.value, met, tc.met)
		}
	}
	both := []connect.JWTClaim{{Path: []string{"role"}, Value: "admin"}, {Path: []string{"perms", "role"}, Value: "root"}}
	if err := got.Meets(both); err == nil || err.Error() != `claim perms.role is not "root"` {
		t.Errorf("all claims must be met; got %v", err)
	}
	if err := (Token{}).Meets(nil); err == nil {
		t.Error("the zero Token meets a requirement")
	}
}

func TestRememberedTokenStillExpiresAndDiesWithItsKeys(t *testing.T) {
	t.Parallel()
	p := provider(t)
	v := verifier(t, p)
	head := bearer(sign(t, jose.ES256, p256(), "p256", payload(t, nil), nil))
	first, err := v.Verify(head, now())
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.Verify(head, now())
	if err != nil || again.claims != first.claims {
		t.Fatalf("the token was not remembered: %v", err)
	}
	if _, err := v.Verify(head, now().Add(2*time.Hour)); err == nil {
		t.Error("a remembered token outlived its expiry")
	}
	p.Keys = keySet(t, jwk("p256", must(p384(), nil)))
	if _, err := verifier(t, p).Verify(head, now()); err == nil {
		t.Error("a token was accepted after its key had gone")
	}
}

func TestMemoryOfTokensIsBounded(t *testing.T) {
	t.Parallel()
	var c cache
	const many = 20 * cacheSets * cacheWays
	for i := range many {
		key := sha256.Sum256(fmt.Append(nil, i))
		c.keep(key, &claims{issuer: fmt.Sprint(i)}, 100)
		if got := c.find(key); got == nil || got.issuer != fmt.Sprint(i) {
			t.Fatalf("token %d is not found right after it was kept", i)
		}
	}
	held := 0
	for i := range many {
		if got := c.find(sha256.Sum256(fmt.Append(nil, i))); got != nil {
			held++
			if got.issuer != fmt.Sprint(i) {
				t.Fatalf("token %d yields the claims of %s", i, got.issuer)
			}
		}
	}
	if held > cacheSets*cacheWays || held < cacheSets*cacheWays/2 {
		t.Errorf("%d tokens are held, want at most %d and at least half of that", held, cacheSets*cacheWays)
	}
	long := sha256.Sum256([]byte("long"))
	if c.keep(long, &claims{}, maxCached+1); c.find(long) != nil {
		t.Error("a token longer than the bound was remembered")
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range []struct {
		name jose.SignatureAlgorithm
		key  any
		kid  string
	}{{jose.RS256, rsaKey(), "rsa"}, {jose.ES256, p256(), "p256"}} {
		head := bearer(sign(b, alg.name, alg.key, alg.kid, payload(b, nil), nil))
		b.Run(string(alg.name)+"/first", func(b *testing.B) {
			v := verifier(b, provider(b))
			for b.Loop() {
				v.seen = cache{}
				if _, err := v.Verify(head, now()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(alg.name)+"/again", func(b *testing.B) {
			v := verifier(b, provider(b))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(head, now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
