// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "time"

// A JWTRequirement asks for a token of one of the named providers. Whatever
// cannot evaluate it must deny (Consul, service intentions: jwt).
type JWTRequirement struct {
	Providers []JWTClaims // any of them
}

// JWTClaims is one provider with the claims that its token must carry, all of
// them.
type JWTClaims struct {
	Provider string
	Claims   []JWTClaim
}

// A JWTClaim is met by a token whose claim at Path is the string Value, or a
// list that holds it.
type JWTClaim struct {
	Path  []string
	Value string
}

// A JWTProvider says how tokens of one issuer are found and verified (Consul,
// jwt-provider config entry).
type JWTProvider struct {
	Name      string
	Issuer    string
	Audiences []string // any of them; nil means any audience
	// Locations are searched in order; the first that holds a token counts. nil
	// means the bearer token of Authorization, then the query parameter
	// access_token.
	Locations []TokenLocation
	Forward   TokenForward
	ClockSkew time.Duration // allowed between the issuer's clock and ours

	// Keys is the JSON Web Key Set (RFC 7517) as JSON. It is empty while none is
	// known: no token can be verified then, which denies. Problem says why.
	Keys    string
	Problem string
}

// A TokenLocation is one place for a token: exactly one of Header, Query and
// Cookie is set.
type TokenLocation struct {
	Header      string // field name
	ValuePrefix string // what stands before the token in the field: "Bearer "
	Keep        bool   // the field is passed on; otherwise it is removed
	Query       string // parameter name
	Cookie      string // cookie name
}

// TokenForward names the field in which the verified payload, base64url, goes
// to the application; the zero value forwards nothing.
type TokenForward struct {
	Header string
	Pad    bool // with "=" at its end
}
