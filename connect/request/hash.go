// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// HashKey computes what ring_hash and maglev choose an endpoint by. ok is false
// when no policy yields anything. cookie is the value of a Set-Cookie field for
// the response, "" for none: where a policy asks for a cookie that the request
// has not, fresh makes its value, which should be random and of characters that
// cookies allow. At most one cookie is made for a request, by the first policy
// that may; a nil fresh makes none.
//
// Parts are combined as Envoy does (rotate, then exclusive or), and after a
// terminal policy nothing is looked at once there is any hash. The hash of a
// part is ours, so Envoy and Outrider choose differently; sidecars of ours agree.
func HashKey(policies []connect.HashPolicy, h *connect.Head, sourceIP netip.Addr, fresh func() string) (key uint64, ok bool, cookie string) {
	made := false
	for i := range policies {
		p := &policies[i]
		part, found := hashPart(p, h, sourceIP)
		if !found && !made && fresh != nil && generates(p) {
			made = true
			value := fresh()
			cookie = setCookie(p.Value, value, p.Cookie)
			part, found = hash64(value), true
		}
		if found {
			key = bits.RotateLeft64(key, 1) ^ part
			ok = true
		}
		if p.Terminal && ok {
			break
		}
	}
	return key, ok, cookie
}

func hashPart(p *connect.HashPolicy, h *connect.Head, sourceIP netip.Addr) (uint64, bool) {
	if p.SourceIP {
		if !sourceIP.IsValid() {
			return 0, false
		}
		address := sourceIP.Unmap().As16()
		return hash64(address[:]), true
	}
	switch p.Field {
	case "header":
		return hashField(h, canonical(p.Value))
	case "cookie":
		value := cookieValue(h.Header, p.Value)
		return hash64(value), value != ""
	case "query_parameter":
		value, ok := parameter(h.Query(), p.Value)
		return hash64(value), ok
	}
	return 0, false
}

// hashField hashes the values of a field in any order alike.
func hashField(h *connect.Head, name string) (uint64, bool) {
	if values := h.Header[name]; len(values) > 1 {
		sorted := slices.Sorted(slices.Values(values))
		return hash64(strings.Join(sorted, "\x00")), true
	}
	value, ok := lookup(h, name)
	return hash64(value), ok
}

// cookieValue returns the first cookie of a name, without quotes, "" for none.
func cookieValue(h connect.Header, name string) string {
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, found := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !found || key != name {
				continue
			}
			if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			return value
		}
	}
	return ""
}

// generates reports whether the policy asks for a cookie to be made.
func generates(p *connect.HashPolicy) bool {
	return p.Field == "cookie" && !p.SourceIP && p.Cookie != nil && (p.Cookie.Session || p.Cookie.TTL > 0) &&
		p.Value != "" && !strings.ContainsFunc(p.Value, notToken)
}

// setCookie writes a Set-Cookie field (RFC 6265, 4.1.1). Session wins over TTL,
// as in Consul. A path that would end the attribute is left out.
func setCookie(name, value string, c *connect.CookieConfig) string {
	var b strings.Builder
	b.WriteString(name + `="` + clean(value) + `"`)
	if !c.Session {
		// Rounded up: 0 would end the cookie at once.
		seconds := int64((c.TTL + time.Second - 1) / time.Second)
		b.WriteString("; Max-Age=" + strconv.FormatInt(seconds, 10))
	}
	if c.Path != "" && clean(c.Path) == c.Path && !strings.Contains(c.Path, ";") {
		b.WriteString("; Path=" + c.Path)
	}
	b.WriteString("; HttpOnly")
	return b.String()
}

// hash64 is FNV-1a with a final mix, because rings take the high bits and those
// of FNV say little about short texts.
func hash64[T string | []byte](text T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
