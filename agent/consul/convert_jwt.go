// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A JWTSource is a provider and where its keys come from: they are in Provider
// already, or behind Remote, or in KeysFile. A provider that cannot be used has
// none of these and says so in Provider.Problem.
type JWTSource struct {
	Provider connect.JWTProvider
	Remote   *RemoteKeys // nil when the keys are not fetched
	KeysFile string      // a JSON Web Key Set on this machine
}

// RemoteKeys says how a key set is fetched (Consul, jwt-provider config entry:
// jsonWebKeySet.remote). Zero durations and counts are not set; whoever fetches
// chooses.
type RemoteKeys struct {
	URI                 string        // http or https
	Timeout             time.Duration // of one request
	ConnectTimeout      time.Duration
	CacheFor            time.Duration // how long keys are used before they are fetched again
	Async               bool          // fetched before the first token comes, not because of it
	Retries             int
	Backoff, MaxBackoff time.Duration
	// The CA certificates of an https URI: a file, an environment variable that
	// holds PEM, or PEM. At most one is set; with none the system's count.
	CAFile, CAEnvironment, CA string
}

type wireJWTProvider struct {
	Kind             string
	Name             string
	JSONWebKeySet    *wireKeySet
	Issuer           string
	Audiences        []string
	Locations        []wireLocation
	Forwarding       *wireForwarding
	ClockSkewSeconds *int64
}

type wireKeySet struct {
	Local  *struct{ JWKS, Filename string } // JWKS is base64
	Remote *wireRemoteKeys
}

type wireRemoteKeys struct {
	URI                 string
	RequestTimeoutMs    int64
	CacheDuration       any // nanoseconds
	FetchAsynchronously bool
	RetryPolicy         *struct {
		NumRetries         int64
		RetryPolicyBackOff *struct{ BaseInterval, MaxInterval any }
	}
	JWKSCluster *struct {
		ConnectTimeout  any
		TLSCertificates *struct {
			CaCertificateProviderInstance json.RawMessage
			TrustedCA                     *struct {
				Filename, EnvironmentVariable, InlineString string
				InlineBytes                                 []byte
			}
		}
	}
}

type wireLocation struct {
	Header *struct {
		Name, ValuePrefix string
		Forward           bool
	}
	QueryParam, Cookie *struct{ Name string }
}

type wireForwarding struct {
	HeaderName              string
	PadForwardPayloadHeader bool
}

// defaultClockSkew is Consul's documented one (Consul, jwt-provider config
// entry: clockSkewSeconds).
const defaultClockSkew = 30 * time.Second

// convertJWTProviders makes sources of all providers of the mesh, by name. One
// that cannot be read is there with its problem, so that it denies and the
// others go on: it belongs to whoever wrote it, the list to everybody.
func convertJWTProviders(list []wireJWTProvider) (map[string]JWTSource, error) {
	if err := sizes("JWT providers", len(list), maxRules); err != nil {
		return nil, err
	}
	sources := make(map[string]JWTSource, len(list))
	for _, w := range list {
		if w.Kind != "jwt-provider" || w.Name == "" {
			return nil, fmt.Errorf("an entry of kind %q and name %q is among the JWT providers", w.Kind, w.Name)
		}
		if _, twice := sources[w.Name]; twice {
			return nil, fmt.Errorf("the JWT provider %q is there twice", w.Name)
		}
		source, err := w.convert()
		if err != nil {
			source = JWTSource{Provider: connect.JWTProvider{Name: w.Name, Problem: "its config entry cannot be used: " + err.Error()}}
		}
		sources[w.Name] = source
	}
	return sources, nil
}

func (w wireJWTProvider) convert() (JWTSource, error) {
	p := connect.JWTProvider{Name: w.Name, Issuer: w.Issuer, Audiences: w.Audiences, ClockSkew: defaultClockSkew}
	if err := sizes("audiences", len(w.Audiences), maxMatchers, append(slices.Clip(w.Audiences), w.Name, w.Issuer)...); err != nil {
		return JWTSource{}, err
	}
	var err error
	if p.Locations, err = convertLocations(w.Locations); err != nil {
		return JWTSource{}, err
	}
	if f := w.Forwarding; f != nil {
		if !isToken(f.HeaderName) || len(f.HeaderName) > maxText {
			return JWTSource{}, fmt.Errorf("forwarding: %.40q is not the name of a header field", f.HeaderName)
		}
		p.Forward = connect.TokenForward{Header: f.HeaderName, Pad: f.PadForwardPayloadHeader}
	}
	if s := w.ClockSkewSeconds; s != nil && *s != 0 {
		// Consul stores negative ones; none at all is the strictest we have.
		if p.ClockSkew, err = units(max(*s, 0), time.Second); err != nil {
			return JWTSource{}, fmt.Errorf("ClockSkewSeconds: %w", err)
		}
	}
	return w.JSONWebKeySet.into(JWTSource{Provider: p})
}

// into adds where the keys come from.
func (w *wireKeySet) into(s JWTSource) (JWTSource, error) {
	switch {
	case w == nil || (w.Local == nil) == (w.Remote == nil):
		return s, errors.New("it must have either local or remote keys")
	case w.Remote != nil:
		var err error
		s.Remote, err = w.Remote.convert()
		return s, err
	case (w.Local.JWKS == "") == (w.Local.Filename == ""):
		return s, errors.New("its local keys must be given either as text or as a file")
	case w.Local.Filename != "":
		s.KeysFile = w.Local.Filename
		return s, nil
	}
	keys, err := base64.StdEncoding.DecodeString(w.Local.JWKS)
	if err != nil {
		return s, errors.New("its local keys are not base64")
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(keys, &set); err != nil || set.Keys == nil {
		// The cause would quote the keys.
		return s, errors.New("its local keys are not a JSON Web Key Set")
	}
	s.Provider.Keys = string(keys)
	return s, nil
}

func (w *wireRemoteKeys) convert() (*RemoteKeys, error) {
	if err := checkURI(w.URI); err != nil {
		return nil, err
	}
	r := &RemoteKeys{URI: w.URI, Async: w.FetchAsynchronously}
	var err error
	if r.Timeout, err = units(w.RequestTimeoutMs, time.Millisecond); err != nil {
		return nil, fmt.Errorf("RequestTimeoutMs: %w", err)
	}
	if r.CacheFor, err = optionalDuration(w.CacheDuration); err != nil {
		return nil, fmt.Errorf("CacheDuration: %w", err)
	}
	if p := w.RetryPolicy; p != nil {
		if p.NumRetries < 0 || p.NumRetries > maxRetries {
			return nil, fmt.Errorf("NumRetries is %d, want 0 to %d", p.NumRetries, maxRetries)
		}
		r.Retries = int(p.NumRetries)
		if b := p.RetryPolicyBackOff; b != nil {
			if r.Backoff, err = optionalDuration(b.BaseInterval); err != nil {
				return nil, fmt.Errorf("BaseInterval: %w", err)
			}
			if r.MaxBackoff, err = optionalDuration(b.MaxInterval); err != nil {
				return nil, fmt.Errorf("MaxInterval: %w", err)
			}
		}
	}
	return r, w.trust(r)
}

// checkURI never repeats the URI: it may hold a password.
func checkURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || len(uri) > maxText {
		return errors.New("the URI of its keys is not that of an http or https server")
	}
	return nil
}

// trust reads the TLS settings of the cluster that Envoy would make.
func (w *wireRemoteKeys) trust(r *RemoteKeys) error {
	if w.JWKSCluster == nil {
		return nil
	}
	var err error
	if r.ConnectTimeout, err = optionalDuration(w.JWKSCluster.ConnectTimeout); err != nil {
		return fmt.Errorf("ConnectTimeout: %w", err)
	}
	certificates := w.JWKSCluster.TLSCertificates
	switch {
	case certificates == nil:
		return nil
	case certificates.TrustedCA == nil:
		if len(certificates.CaCertificateProviderInstance) == 0 {
			return nil
		}
		return errors.New("CaCertificateProviderInstance names a part of Envoy, which is not here: use TrustedCA")
	}
	ca := certificates.TrustedCA
	r.CAFile, r.CAEnvironment, r.CA = ca.Filename, ca.EnvironmentVariable, either(ca.InlineString, string(ca.InlineBytes))
	count := 0
	for _, given := range []string{r.CAFile, r.CAEnvironment, ca.InlineString, string(ca.InlineBytes)} {
		if given != "" {
			count++
		}
	}
	if count != 1 {
		return fmt.Errorf("TrustedCA names %d sources of certificates, want one", count)
	}
	return nil
}

func convertLocations(list []wireLocation) ([]connect.TokenLocation, error) {
	if err := sizes("locations", len(list), maxMatchers); err != nil {
		return nil, err
	}
	var locations []connect.TokenLocation
	for i, w := range list {
		var l connect.TokenLocation
		count, name := 0, ""
		if h := w.Header; h != nil {
			l.Header, l.ValuePrefix, l.Keep = h.Name, h.ValuePrefix, h.Forward
			count, name = count+1, h.Name
		}
		if w.QueryParam != nil {
			l.Query = w.QueryParam.Name
			count, name = count+1, l.Query
		}
		if w.Cookie != nil {
			l.Cookie = w.Cookie.Name
			count, name = count+1, l.Cookie
		}
		switch {
		case count != 1:
			return nil, fmt.Errorf("location %d: it must be a header, a query parameter or a cookie", i+1)
		case len(name) > maxText || len(l.ValuePrefix) > maxText || name == "" || (l.Query == "" && !isToken(name)):
			return nil, fmt.Errorf("location %d: its name or prefix cannot be used", i+1)
		}
		locations = append(locations, l)
	}
	return locations, nil
}

// units returns count units of time, which must be 0 to one year.
func units(count int64, unit time.Duration) (time.Duration, error) {
	if count < 0 || count > int64(maxDuration/unit) {
		return 0, fmt.Errorf("%d is not from 0 to one year", count)
	}
	return time.Duration(count) * unit, nil
}
