// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"fmt"
	"net/http"
)

const chainPath = "/v1/discovery-chain/"

// httpByDefault makes every service speak HTTP.
func httpByDefault(s *session) {
	s.entry(`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`)
}

func (s *session) noteChains(names ...string) {
	s.Helper()
	for _, name := range names {
		s.noteJSON(chainPath + name)
	}
}

func routers(s *session) {
	httpByDefault(s)
	for _, body := range []string{
		`{"Kind":"service-resolver","Name":"api","DefaultSubset":"v1","RequestTimeout":"4s","Subsets":{"v1":{"Filter":"Service.Meta.version == \"1\""},"v2":{}},
			"LoadBalancer":{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":5},"HashPolicies":[{"Field":"header","FieldValue":"x"},{"SourceIP":true,"Terminal":true}]}}`,
		`{"Kind":"service-router","Name":"web","Routes":[
			{"Match":{"HTTP":{"PathPrefix":"/a","CaseInsensitive":true,"Methods":["get","POST"],"Header":[{"Name":"x","Exact":"1","Invert":true},{"Name":"y","Present":true}],
				"QueryParam":[{"Name":"q","Present":true},{"Name":"r","Regex":"a.*"}]}},
			 "Destination":{"Service":"api","ServiceSubset":"v2","PrefixRewrite":"/","RequestTimeout":"3s","IdleTimeout":"-1s","NumRetries":3,"RetryOnConnectFailure":true,
				"RetryOn":["5xx","cancelled"],"RetryOnStatusCodes":[503,409],"RequestHeaders":{"Add":{"x":"y"},"Set":{"a_b":"c"},"Remove":["z"]},"ResponseHeaders":{"Set":{"q":"%PROTOCOL%"}}}},
			{"Match":{"HTTP":{"PathExact":"/api"}},"Destination":{"Service":"api"}},
			{"Match":{"HTTP":{"PathRegex":"/r.*"}}},{},{"Match":{}},{"Match":{"HTTP":{}},"Destination":{}}]}`,
		`{"kind":"service-router","name":"empty"}`,
		`{"kind":"service-router","name":"moved","routes":[{"match":{"http":{"path_prefix":"/x"}},"destination":{"service":"moved","request_timeout":1000000000,"num_retries":2}}]}`,
		`{"Kind":"service-resolver","Name":"moved","Redirect":{"Service":"api"}}`,
		`{"Kind":"service-resolver","Name":"routed","Redirect":{"Service":"web"}}`,
	} {
		s.entry(body)
	}
	s.noteJSON("/v1/config/service-router")
	s.noteJSON("/v1/config/service-router/web")
	s.noteChains("web", "api", "empty", "moved", "routed")
	s.noteJSON(chainPath + "web?compile-dc=dc2")
	for _, override := range []string{`{"OverrideProtocol":"tcp"}`, `{"OverrideProtocol":"grpc"}`} {
		r := s.call(http.MethodPost, chainPath+"web", override)
		s.note("POST %s: %s", override, s.normal(r.body, "CustomizationHash"))
	}
	s.noteAnswer(http.MethodDelete, "/v1/config/service-router/web", "")
	// Consul frees the virtual address with the last entry, and may give it to
	// another service; here it stays.
	s.noteJSON(chainPath+"web", "AutoVirtualIPs")
	// An entry that names no protocol means TCP, not that of proxy-defaults.
	s.entry(`{"Kind":"service-defaults","Name":"plain"}`)
	s.noteJSON(chainPath+"plain", "AutoVirtualIPs")
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-router","Name":"plain"}`)
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-intentions","Name":"plain","Sources":[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
}

func routersRefused(s *session) {
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-router","Name":"web","Routes":[]}`)
	httpByDefault(s)
	for _, route := range []string{
		`{"Match":{"HTTP":{"PathPrefix":"/a","PathExact":"/b"}}}`,
		`{"Match":{"HTTP":{"PathPrefix":"a"}}}`,
		`{"Match":{"HTTP":{"PathExact":"a"}}}`,
		`{"Match":{"HTTP":{"Header":[{"Present":true}]}}}`,
		`{"Match":{"HTTP":{"Header":[{"Name":"x"}]}}}`,
		`{"Match":{"HTTP":{"Header":[{"Name":"x","Present":true,"Exact":"1"}]}}}`,
		`{"Match":{"HTTP":{"Header":[{"Name":"x","Contains":"1"}]}}}`,
		`{"Match":{"HTTP":{"QueryParam":[{"Name":"q"}]}}}`,
		`{"Match":{"HTTP":{"QueryParam":[{"Name":"q","Exact":"1","Regex":"2"}]}}}`,
		`{"Match":{"HTTP":{"QueryParam":[{"Exact":"1"}]}}}`,
		`{"Match":{"HTTP":{"Methods":["GET","get"]}}}`,
		`{"Match":{"HTTP":{"Methods":["GE T"]}}}`,
		`{"Match":{"HTTP":{"Methods":[""]}}}`,
		`{"Destination":{"PrefixRewrite":"/x"}}`,
		`{"Match":{"HTTP":{"PathRegex":"/x"}},"Destination":{"PrefixRewrite":"/x"}}`,
		`{"Destination":{"RetryOn":["5xx","bogus"]}}`,
		`{"Destination":{"ServiceSubset":"none"}}`,
		`{"Match":{"Bogus":{}}}`,
		`{"Destination":{"RequestHeaders":{"Bogus":{}}}}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"service-router","Name":"web","Routes":[{},%s]}`, route))
	}
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-router","Routes":[]}`)
	s.entry(`{"Kind":"service-defaults","Name":"db","Protocol":"tcp"}`)
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-router","Name":"db"}`)
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"Service":"db"}}]}`)
	s.noteJSON("/v1/config/service-router")
	// What a chain needs cannot be taken from it.
	s.entry(`{"Kind":"service-resolver","Name":"api","Subsets":{"v1":{}}}`)
	s.entry(`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"Service":"api","ServiceSubset":"v1"}}]}`)
	s.noteAnswer(http.MethodDelete, "/v1/config/service-resolver/api", "")
	s.noteAnswer(http.MethodDelete, "/v1/config/proxy-defaults/global", "")
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"grpc"}`)
	s.noteChains("web")
}

func splitters(s *session) {
	httpByDefault(s)
	for _, body := range []string{
		`{"Kind":"service-resolver","Name":"api","DefaultSubset":"v2","ConnectTimeout":"2s","Subsets":{"v1":{},"v2":{"OnlyPassing":true}},"Failover":{"v1":{"Service":"spare"}}}`,
		`{"Kind":"service-splitter","Name":"api","Splits":[{"Weight":70,"RequestHeaders":{"Set":{"x-leg":"2"}}},{"Weight":30,"ServiceSubset":"v1"}]}`,
		// One inside of the other, twice, with edits on the way.
		`{"Kind":"service-splitter","Name":"s3","Splits":[{"Weight":10,"Service":"s3","RequestHeaders":{"Set":{"deep":"1"}}},{"Weight":90,"Service":"s4"}]}`,
		`{"Kind":"service-splitter","Name":"s2","Splits":[{"Weight":40,"RequestHeaders":{"Add":{"a":"in","b":"in"},"Set":{"s":"in"},"Remove":["r2"]}},{"Weight":60,"Service":"s3"}]}`,
		`{"Kind":"service-splitter","Name":"s1","Splits":[{"Weight":50.5},{"Weight":49.5,"Service":"s2","RequestHeaders":{"Add":{"a":"out"},"Set":{"s":"out"},"Remove":["r1"]},"ResponseHeaders":{"Set":{"q":"out"}}}]}`,
		// A subset or a redirect leads past the splitter.
		`{"Kind":"service-resolver","Name":"red","Redirect":{"Service":"s1"}}`,
		`{"Kind":"service-splitter","Name":"past","Splits":[{"Weight":50,"Service":"api","ServiceSubset":"v1"},{"Weight":25,"Service":"api"},{"Weight":25,"Service":"red"}]}`,
		// The first balancer that hashes is that of the splitter.
		`{"Kind":"service-resolver","Name":"lb1","LoadBalancer":{"Policy":"least_request"}}`,
		`{"Kind":"service-resolver","Name":"lb2","LoadBalancer":{"Policy":"ring_hash"}}`,
		`{"Kind":"service-resolver","Name":"lb3","LoadBalancer":{"Policy":"maglev"}}`,
		`{"Kind":"service-splitter","Name":"hash","Splits":[{"Weight":50,"Service":"lb1"},{"Weight":25,"Service":"lb2"},{"Weight":25,"Service":"lb3"}]}`,
		`{"Kind":"service-splitter","Name":"hash2","Splits":[{"Weight":100,"Service":"hash"}]}`,
		`{"Kind":"service-splitter","Name":"odd","Splits":[{"Weight":99.999,"Service":"a"},{"Weight":0.001,"Service":"b"}]}`,
		`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"PathPrefix":"/1"}},"Destination":{"Service":"api","ServiceSubset":"v1"}},
			{"Match":{"HTTP":{"PathPrefix":"/2"}},"Destination":{"Service":"past"}},{"Match":{"HTTP":{"PathPrefix":"/3"}},"Destination":{"Service":"api"}},
			{"Match":{"HTTP":{"PathPrefix":"/4"}}}]}`,
		`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100}]}`,
		`{"Kind":"service-defaults","Name":"ext","Protocol":"http","ExternalSNI":"e.example"}`,
		`{"Kind":"service-splitter","Name":"ext","Splits":[{"Weight":100}]}`,
	} {
		s.entry(body)
	}
	s.noteJSON("/v1/config/service-splitter")
	s.noteJSON("/v1/config/service-splitter/s1")
	s.noteChains("api", "s1", "s2", "red", "past", "hash", "hash2", "odd", "web", "ext")
	s.noteJSON(chainPath + "s1?compile-dc=dc2")
}

func splittersRefused(s *session) {
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100}]}`)
	httpByDefault(s)
	for _, splits := range []string{
		``,
		`{"Weight":50,"Service":"a"},{"Weight":49,"Service":"b"}`,
		`{"Weight":12.345,"Service":"a"},{"Weight":87.655,"Service":"b"}`,
		`{"Weight":50,"Service":"a"},{"Weight":50,"Service":"a"}`,
		`{"Weight":100,"ServiceSubset":"zz"}`,
		`{"Weight":50,"Service":"a"},{"Weight":50,"Service":"b","Bogus":1}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"service-splitter","Name":"web","Splits":[%s]}`, splits))
	}
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-splitter","Splits":[{"Weight":100}]}`)
	s.entry(`{"Kind":"service-splitter","Name":"a","Splits":[{"Weight":50},{"Weight":50,"Service":"b"}]}`)
	s.entry(`{"Kind":"service-splitter","Name":"b","Splits":[{"Weight":50},{"Weight":50,"Service":"c"}]}`)
	// Consul names the circle from any of its ends.
	r := s.call(http.MethodPut, "/v1/config", `{"Kind":"service-splitter","Name":"c","Splits":[{"Weight":50},{"Weight":50,"Service":"a"}]}`)
	s.note("status %d: %.35s", r.status, r.body)
	s.entry(`{"Kind":"service-defaults","Name":"db","Protocol":"tcp"}`)
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":50,"Service":"web"},{"Weight":50,"Service":"db"}]}`)
	s.noteJSON("/v1/config/service-splitter")
	for _, balancer := range []string{
		`{"Policy":"ring_hash","HashPolicies":[{"Field":"bogus","FieldValue":"x"}]}`,
		`{"Policy":"ring_hash","HashPolicies":[{},{"Field":"header"}]}`,
		`{"Policy":"ring_hash","HashPolicies":[{"FieldValue":"x"}]}`,
		`{"Policy":"ring_hash","HashPolicies":[{"SourceIP":true,"Field":"header","FieldValue":"x"}]}`,
		`{"Policy":"ring_hash","HashPolicies":[{"Field":"header","FieldValue":"x","CookieConfig":{"Session":true}}]}`,
		`{"Policy":"ring_hash","HashPolicies":[{"Field":"cookie","FieldValue":"x","CookieConfig":{"Session":true,"TTL":"5s"}}]}`,
		`{"Policy":"random","HashPolicies":[{"Field":"header","FieldValue":"x"}]}`,
		`{"Policy":"random","RingHashConfig":{"MinimumRingSize":1}}`,
		`{"Policy":"random","LeastRequestConfig":{"ChoiceCount":1}}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"service-resolver","Name":"x","LoadBalancer":%s}`, balancer))
	}
}

func permissionsRefused(s *session) {
	httpByDefault(s)
	for _, permission := range []string{
		`{"Action":"allow"}`,
		`{"Action":"allow","HTTP":{}}`,
		`{"Action":"allow","HTTP":{"PathExact":"/a","PathPrefix":"/b"}}`,
		`{"Action":"allow","HTTP":{"PathExact":"a"}}`,
		`{"Action":"allow","HTTP":{"PathPrefix":"a"}}`,
		`{"Action":"allow","HTTP":{"Header":[{"Name":"x"}]}}`,
		`{"Action":"allow","HTTP":{"Header":[{"Present":true}]}}`,
		`{"Action":"allow","HTTP":{"Header":[{"Name":"x","Present":true,"Exact":"1"}]}}`,
		`{"Action":"allow","HTTP":{"Header":[{"Name":"x","Present":true,"IgnoreCase":true}]}}`,
		`{"Action":"allow","HTTP":{"Header":[{"Name":"x","Regex":"a","IgnoreCase":true}]}}`,
		`{"Action":"allow","HTTP":{"Methods":["GET","get"]}}`,
		`{"Action":"allow","HTTP":{"Methods":["G T"]}}`,
		`{"Action":"bogus","HTTP":{"PathPrefix":"/"}}`,
		`{"HTTP":{"PathPrefix":"/"}}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Permissions":[%s]}]}`, permission))
	}
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	s.noteJSON("/v1/config/service-intentions")
	s.entry(`{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Permissions":[
		{"Action":"allow","HTTP":{"PathRegex":"/v[0-9]+/.*","Methods":["get","put"],"Header":[{"Name":"x","Contains":"a","IgnoreCase":true}]}},{"Action":"deny","HTTP":{"PathPrefix":"/"}}]}]}`)
	s.noteJSON(query("/v1/connect/intentions/match", "by", "destination", "name", "api"))
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"tcp"}`)
	s.noteChains("api") // an intention gives the destination its virtual address
}

// jwks is {"keys":[{"kty":"EC"}]}.
const jwks = `"eyJrZXlzIjpbeyJrdHkiOiJFQyJ9XX0="`

func jwts(s *session) {
	httpByDefault(s)
	s.noteJSON("/v1/config/jwt-provider")
	s.noteAnswer(http.MethodGet, "/v1/config/jwt-provider/okta", "")
	for _, body := range []string{
		`{"Kind":"jwt-provider","Name":"okta","Issuer":"iss","JSONWebKeySet":{"Local":{"JWKS":` + jwks + `}}}`,
		`{"Kind":"jwt-provider","Name":"full","Issuer":"iss","JSONWebKeySet":{"Remote":{"URI":"https://a.example/jwks","RequestTimeoutMs":500,"CacheDuration":"30s",
			"FetchAsynchronously":true,"RetryPolicy":{"NumRetries":2,"RetryPolicyBackOff":{"BaseInterval":"1s","MaxInterval":"10s"}}}},"Audiences":["a","b"],
			"Locations":[{"Header":{"Name":"x","ValuePrefix":"Bearer ","Forward":true}},{"QueryParam":{"Name":"q"}},{"Cookie":{"Name":"c"}}],
			"Forwarding":{"HeaderName":"h","PadForwardPayloadHeader":true},"ClockSkewSeconds":10,"CacheConfig":{"Size":5}}`,
		`{"kind":"jwt-provider","name":"cluster","issuer":"i","json_web_key_set":{"remote":{"uri":"https://a.example/j","use_sni":true,
			"jwks_cluster":{"discovery_type":"STATIC","connect_timeout":"3s","tls_certificates":{"trusted_ca":{"inline_string":"x"}}}}},"meta":{"a":"b"}}`,
		`{"Kind":"jwt-provider","Name":"file","JSONWebKeySet":{"Local":{"Filename":"x"}}}`,
		`{"Kind":"service-intentions","Name":"web","JWT":{"Providers":[{"Name":"okta","VerifyClaims":[{"Path":["aud"],"Value":"x"},{"Path":["a","b"],"Value":"y"}]}]},
			"Sources":[{"Name":"a","Action":"allow"},{"Name":"b","Permissions":[{"Action":"allow","HTTP":{"PathExact":"/x"},"JWT":{"Providers":[{"Name":"full"},{"Name":"okta"}]}},
			{"Action":"deny","HTTP":{"Methods":["get"]},"JWT":{"Providers":[]}}]}]}`,
	} {
		s.entry(body)
	}
	s.noteJSON("/v1/config/jwt-provider")
	s.noteJSON("/v1/config/jwt-provider/full")
	s.noteJSON("/v1/config/service-intentions/web")
	s.noteJSON(query("/v1/connect/intentions/match", "by", "destination", "name", "web"))
	s.noteJSON(query(exact, "source", "b", "destination", "web"))
	s.put(query(exact, "source", "c", "destination", "web"), `{"Permissions":[{"Action":"allow","HTTP":{"PathExact":"/y"},"JWT":{"Providers":[{"Name":"file"}]}}]}`)
	s.noteJSON(query(exact, "source", "c", "destination", "web"))
	for _, name := range []string{"okta", "full", "file", "cluster", "none"} {
		s.noteAnswer(http.MethodDelete, "/v1/config/jwt-provider/"+name, "")
	}
	s.noteAnswer(http.MethodDelete, "/v1/config/service-intentions/web", "")
	s.noteAnswer(http.MethodDelete, "/v1/config/jwt-provider/okta", "")
	s.noteJSON("/v1/config/jwt-provider")
}

func jwtsRefused(s *session) {
	httpByDefault(s)
	for _, rest := range []string{
		``,
		`,"JSONWebKeySet":{}`,
		`,"JSONWebKeySet":{"Local":{}}`,
		`,"JSONWebKeySet":{"Local":{"JWKS":"eA==","Filename":"/x"}}`,
		`,"JSONWebKeySet":{"Local":{"JWKS":"!!"}}`,
		`,"JSONWebKeySet":{"Local":{"JWKS":"eA=="},"Remote":{"URI":"http://x"}}`,
		`,"JSONWebKeySet":{"Remote":{}}`,
		`,"JSONWebKeySet":{"Remote":{"URI":"::"}}`,
		`,"JSONWebKeySet":{"Remote":{"URI":"nohost"}}`,
		`,"JSONWebKeySet":{"Remote":{"URI":"http://x","JWKSCluster":{"DiscoveryType":"BOGUS"}}}`,
		`,"JSONWebKeySet":{"Remote":{"URI":"http://x","JWKSCluster":{"TLSCertificates":{}}}}`,
		`,"JSONWebKeySet":{"Remote":{"URI":"http://x","JWKSCluster":{"TLSCertificates":{"TrustedCA":{}}}}}`,
		`,"JSONWebKeySet":{"Local":{"Filename":"x"}},"Locations":[{"Header":{"Name":"x"},"QueryParam":{"Name":"q"}}]`,
		`,"JSONWebKeySet":{"Local":{"Filename":"x"}},"Locations":[{},{"Header":{}},{"QueryParam":{}},{"Cookie":{}}]`,
		`,"JSONWebKeySet":{"Local":{"Filename":"x"}},"Forwarding":{}`,
		`,"JSONWebKeySet":{"Local":{"Filename":"x"}},"Bogus":1`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"jwt-provider","Name":"p","Issuer":"i"`+rest+`}`)
	}
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"jwt-provider","JSONWebKeySet":{"Local":{"Filename":"x"}}}`)
	for _, body := range []string{
		`"JWT":{"Providers":[{"Name":"nope"}]},"Sources":[{"Name":"a","Action":"allow"}]`,
		`"JWT":{"Providers":[{"Name":""}]},"Sources":[{"Name":"a","Action":"allow"}]`,
		`"Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"},"JWT":{"Providers":[{"Name":"nope"}]}}]}]`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-intentions","Name":"web",`+body+`}`)
	}
	s.noteAnswer(http.MethodPut, query(exact, "source", "c", "destination", "web"), `{"Permissions":[{"Action":"allow","HTTP":{"PathExact":"/y"},"JWT":{"Providers":[{"Name":"nope"}]}}]}`)
	s.noteJSON("/v1/config/jwt-provider")
	s.noteJSON("/v1/config/service-intentions")
}

func httpSettings(s *session) {
	for _, normalization := range []string{
		`"PathWithEscapedSlashesAction":"bogus"`,
		`"HeadersWithUnderscoresAction":"bogus"`,
		`"InsecureDisablePathNormalization":true,"MergeSlashes":true,"PathWithEscapedSlashesAction":"REJECT_REQUEST","HeadersWithUnderscoresAction":"DROP_HEADER"`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"mesh","HTTP":{"SanitizeXForwardedClientCert":true,"Incoming":{"RequestNormalization":{%s}}}}`, normalization))
	}
	s.noteJSON("/v1/config/mesh")
	// Limits have to go into Meta: the Community Edition refuses their own place.
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"http","RateLimits":{"InstanceLevel":{"RequestsPerSecond":5}}}`)
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"http","rate_limits":{}}`)
	s.entry(`{"Kind":"service-defaults","Name":"api","Protocol":"http","Meta":{"outrider-rate-limits":"{\"instance_level\":{\"requests_per_second\":5}}","a_b":"c"}}`)
	s.noteJSON("/v1/config/service-defaults/api")
	s.noteAnswer(http.MethodGet, "/v1/config/service-defaults/web", "")
}
