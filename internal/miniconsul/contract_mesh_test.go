// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

type roots struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []root
}

type root struct {
	ID, RootCert, SigningKeyID string
	IntermediateCerts          []string
	Active                     bool
}

type leaf struct {
	CertPEM, PrivateKeyPEM, Service, ServiceURI string
	ValidAfter, ValidBefore                     time.Time
}

// pool makes a pool of all roots, or of the one that is not active.
func (r roots) pool(onlyOld bool) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, each := range r.Roots {
		if !onlyOld || !each.Active {
			pool.AppendCertsFromPEM([]byte(each.RootCert))
		}
	}
	return pool
}

// verify checks a leaf as a peer would and returns its certificates.
func verify(s *session, l leaf, pool *x509.CertPool) []*x509.Certificate {
	s.Helper()
	if _, err := tls.X509KeyPair([]byte(l.CertPEM), []byte(l.PrivateKeyPEM)); err != nil {
		s.Fatalf("%s: the key is not that of the leaf: %v", s.base, err)
	}
	certs, err := connect.ParseCertificates([]byte(l.CertPEM))
	if err != nil {
		s.Fatalf("%s: %v", s.base, err)
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			s.Errorf("%s: verify the leaf: %v", s.base, err)
		}
	}
	return certs
}

func rootsAndLeaves(s *session) {
	s.noteJSON("/v1/agent/connect/ca/roots", "ID", "ActiveRootID", "Name", "SerialNumber", "SigningKeyID", "NotBefore", "NotAfter", "RootCert", "ExternalTrustDomain")
	r := into[roots](s, s.get("/v1/connect/ca/roots"))
	first := r.Roots[0]
	certs, err := connect.ParseCertificates([]byte(first.RootCert))
	if err != nil || len(certs) != 1 {
		s.Fatalf("%s: root: %v", s.base, err)
	}
	s.note("root: %v %v %v %v %v", first.ID == r.ActiveRootID, len(first.ID), first.SigningKeyID == meshca.KeyID(certs[0]), certs[0].IsCA,
		certs[0].URIs[0].String() == "spiffe://"+r.TrustDomain)
	l := into[leaf](s, s.get("/v1/agent/connect/ca/leaf/api"))
	leafCert := verify(s, l, r.pool(false))[0]
	_, isEC := leafCert.PublicKey.(*ecdsa.PublicKey)
	s.note("leaf of %s: %s, subject %q, %d URI, names %v, for %s, EC %v, CA %v, usages %v", l.Service,
		strings.ReplaceAll(l.ServiceURI, r.TrustDomain, "td"), leafCert.Subject, len(leafCert.URIs), leafCert.DNSNames,
		leafCert.NotAfter.Sub(leafCert.NotBefore).Round(time.Hour), isEC, leafCert.IsCA, len(leafCert.ExtKeyUsage))
	s.note("times: %v %v", l.ValidAfter.Equal(leafCert.NotBefore), l.ValidBefore.Equal(leafCert.NotAfter))
	again := into[leaf](s, s.get("/v1/agent/connect/ca/leaf/api"))
	other := into[leaf](s, s.get("/v1/agent/connect/ca/leaf/web"))
	s.note("the leaf is kept: %v, another has its own key: %v", again == l, other.PrivateKeyPEM != l.PrivateKeyPEM)
	s.noteAnswer(http.MethodPut, "/v1/agent/connect/ca/leaf/api", "")
}

func rotation(s *session) {
	const path = "/v1/agent/connect/ca/roots"
	before := s.get(path)
	first := s.get("/v1/agent/connect/ca/leaf/api")
	td := into[roots](s, before).TrustDomain
	changed := make(chan response, 1)
	go func() {
		r, err := s.try(http.MethodGet, query(path, "index", index(before), "wait", "30s"), "")
		if err != nil {
			s.Errorf("%s: %v", s.base, err)
		}
		changed <- r
	}()
	ca := meshca.NewIn("new root", td)
	der, err := x509.MarshalECPrivateKey(ca.Key)
	if err != nil {
		s.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"Provider": "consul", "Config": map[string]any{
		"PrivateKey":  string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		"RootCert":    meshca.PEM(ca.Cert),
		"LeafCertTTL": "72h", "IntermediateCertTTL": "8760h",
	}})
	if err != nil {
		s.Fatal(err)
	}
	s.put("/v1/connect/ca/configuration", string(config))
	s.put("/v1/connect/ca/configuration", string(config)) // the same again changes nothing
	after := into[roots](s, <-changed)
	s.note("roots: %d", len(after.Roots))
	// They come in the order of their IDs, which are random.
	slices.SortFunc(after.Roots, func(a, _ root) int {
		if a.Active {
			return -1
		}
		return 1
	})
	for _, root := range after.Roots {
		s.note("active %v is the new one: %v, intermediates %d", root.Active, root.SigningKeyID == meshca.KeyID(ca.Cert), len(root.IntermediateCerts))
	}
	s.note("active: %v", after.ActiveRootID == after.Roots[0].ID && after.Roots[0].Active)
	// Consul's agent takes up to 30 s, so that agents do not all come at once.
	l := into[leaf](s, s.get(query("/v1/agent/connect/ca/leaf/api", "index", index(first), "wait", "50s")))
	s.note("the leaf is new: %v", l != into[leaf](s, first))
	verify(s, l, after.pool(false))
	certs := verify(s, l, after.pool(true)) // peers that know the old root only
	s.note("chain of %d", len(certs))
	s.noteAnswer(http.MethodPut, "/v1/connect/ca/configuration", `{"Provider":"bogus","Config":{}}`)
}

const exact = "/v1/connect/intentions/exact"

func intentions(s *session) {
	match := func(name string) {
		s.noteJSON(query("/v1/connect/intentions/match", "by", "destination", "name", name))
	}
	match("api")
	for _, i := range [][3]string{{"*", "api", "allow"}, {"web", "*", "allow"}, {"web", "api", "deny"}, {"*", "*", "deny"}, {"b", "api", "deny"}, {"a", "api", "allow"}} {
		s.put(query(exact, "source", i[0], "destination", i[1]), fmt.Sprintf(`{"Action":%q,"Description":"d"}`, i[2]))
		match("api")
	}
	match("other")
	s.noteJSON("/v1/connect/intentions")
	s.noteJSON(query("/v1/connect/intentions/match", "by", "source", "name", "web"))
	s.noteJSON("/v1/config/service-intentions")
	s.noteJSON("/v1/config/service-intentions/api")
	s.noteJSON(query(exact, "source", "web", "destination", "api"))
	for _, pair := range [][2]string{{"web", "api"}, {"x", "api"}, {"web", "other"}, {"x", "other"}} {
		s.noteJSON(query("/v1/connect/intentions/check", "source", pair[0], "destination", pair[1]))
	}
	s.put(query(exact, "source", "web", "destination", "api"), `{"Action":"allow"}`)
	for _, pair := range [][2]string{{"*", "*"}, {"*", "*"}, {"*", "api"}, {"web", "*"}} {
		s.noteAnswer(http.MethodDelete, query(exact, "source", pair[0], "destination", pair[1]), "")
	}
	match("api")
	match("other")
	s.noteJSON(query("/v1/connect/intentions/check", "source", "x", "destination", "other"))
	// The same through config entries, with permissions.
	s.entry(`{"Kind":"service-defaults","Name":"db","Protocol":"http"}`)
	s.entry(`{"kind":"service-intentions","name":"db","sources":[
		{"name":"web","permissions":[{"action":"allow","http":{"path_prefix":"/a","methods":["GET"],"header":[{"name":"x","exact":"y","invert":true}]}}]},
		{"name":"*","action":"deny"},{"name":"a","action":"deny"}]}`)
	match("db")
	s.noteJSON("/v1/config/service-intentions/db")
	s.noteJSON(query("/v1/connect/intentions/check", "source", "web", "destination", "db"))
	s.noteAnswer(http.MethodDelete, "/v1/config/service-intentions/db", "")
	match("db")
}

func intentionsRefused(s *session) {
	pair := query(exact, "source", "web", "destination", "api")
	for _, body := range []string{
		`{"Action":"maybe"}`,
		`{"Action":"deny","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}`,
		`{"Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}`,
	} {
		s.noteAnswer(http.MethodPut, pair, body)
	}
	s.noteAnswer(http.MethodPut, exact+"?source=web", `{"Action":"deny"}`)
	s.noteAnswer(http.MethodGet, pair, "")
	s.noteAnswer(http.MethodGet, "/v1/connect/intentions/match?by=bla&name=zzz", "")
	s.noteAnswer(http.MethodGet, "/v1/connect/intentions/match?by=destination", "")
	s.noteJSON("/v1/connect/intentions")
}

func configEntries(s *session) {
	s.noteJSON("/v1/config/mesh")
	s.noteAnswer(http.MethodGet, "/v1/config/mesh/mesh", "")
	s.noteAnswer(http.MethodGet, "/v1/config/bogus", "")
	s.entry(`{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"TLSv1_2","CipherSuites":["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},"Outgoing":{"tls_max_version":"TLSv1_3"}}}`)
	s.noteJSON("/v1/config/mesh/mesh")
	s.entry(`{"Kind":"mesh","http":{"sanitize_x_forwarded_client_cert":true,"incoming":{"request_normalization":{"merge_slashes":true}}},
		"peering":{"peer_through_mesh_gateways":true},"transparent_proxy":{"mesh_destinations_only":true}}`)
	s.noteJSON("/v1/config/mesh")
	s.entry(`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http","x":{"y_z":[1]}}}`)
	s.noteJSON("/v1/config/proxy-defaults/global")
	s.entry(`{"kind":"service-resolver","name":"b","default_subset":"v1","connect_timeout":"3s","request_timeout":"2s",
		"subsets":{"v1":{"filter":"Service.Meta.version == \"1\""},"v-2":{"only_passing":true}},
		"failover":{"*":{"datacenters":["dc2"]},"v1":{"targets":[{"service":"x"},{"datacenter":"dc3"}]}},
		"load_balancer":{"policy":"maglev","hash_policies":[{"field":"cookie","field_value":"c","cookie_config":{"ttl":"5s"}}]},"meta":{"a_b":"c"}}`)
	s.entry(`{"Kind":"service-resolver","Name":"a"}`)
	s.noteJSON("/v1/config/service-resolver")
	for _, body := range []string{
		`{"Kind":"bogus","Name":"x"}`,
		`{"Kind":"proxy-defaults","Name":"other"}`,
		`{"Kind":"proxy-defaults","Name":"global","AccessLogs":{"Type":"syslog"}}`,
		`{"Kind":"proxy-defaults","Name":"global","AccessLogs":{"Type":"file"}}`,
		`{"Kind":"proxy-defaults","Name":"global","AccessLogs":{"Path":"/x"}}`,
		`{"Kind":"proxy-defaults","Name":"global","AccessLogs":{"JSONFormat":"{}","TextFormat":"x"}}`,
		`{"Kind":"service-defaults","Name":"api","Protocol":"bogus"}`,
		`{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"bogus"}}}`,
		`{"Kind":"service-resolver","Name":"api","Bogus":1}`,
		`{"Kind":"service-intentions","Name":"tcp","Sources":[{"Name":"web","Action":"sometimes"}]}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", body)
	}
	s.noteAnswer(http.MethodDelete, "/v1/config/proxy-defaults/global", "")
	s.noteAnswer(http.MethodPut, "/v1/config", `{"Kind":"service-intentions","Name":"t","Sources":[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	s.noteAnswer(http.MethodDelete, "/v1/config/proxy-defaults/global", "")
	s.noteAnswer(http.MethodGet, "/v1/config/proxy-defaults/global", "")
}

func chains(s *session) {
	for _, body := range []string{
		`{"Kind":"service-resolver","Name":"api","DefaultSubset":"v1","ConnectTimeout":"3s","Subsets":{"v1":{"Filter":"Service.Meta.version == \"1\""},"v2":{}}}`,
		`{"Kind":"service-resolver","Name":"red","Redirect":{"Service":"api","ServiceSubset":"v2"}}`,
		`{"Kind":"service-resolver","Name":"red2","ConnectTimeout":"9s","Redirect":{"Service":"red"}}`,
		`{"Kind":"service-resolver","Name":"reddc","Redirect":{"Datacenter":"dc2"}}`,
		`{"Kind":"service-resolver","Name":"toplain","Redirect":{"Service":"plain"}}`,
		`{"Kind":"service-resolver","Name":"empty"}`,
		`{"Kind":"service-resolver","Name":"dcs","Failover":{"*":{"Datacenters":["dc2","dc3"]}}}`,
		`{"Kind":"service-resolver","Name":"fo","ConnectTimeout":"7s","RequestTimeout":"2s","LoadBalancer":{"Policy":"least_request","LeastRequestConfig":{"ChoiceCount":5}},
			"Subsets":{"a":{"Filter":"\"x\" in Service.Tags","OnlyPassing":true}},
			"Failover":{"*":{"Service":"api"},"a":{"Targets":[{"Service":"api","ServiceSubset":"v2"},{"Datacenter":"dc2"},{"Service":"zz"},{"Service":"zz"}]}}}`,
		`{"Kind":"service-resolver","Name":"fosub","Redirect":{"Service":"fo","ServiceSubset":"a","Datacenter":"dc7"}}`,
		`{"Kind":"service-resolver","Name":"fored","Failover":{"*":{"Service":"red2"}}}`,
		`{"Kind":"service-resolver","Name":"foself","DefaultSubset":"s","Subsets":{"t":{},"s":{"Filter":"Service.Meta.a == b"}},"Failover":{"*":{"ServiceSubset":"t","Datacenters":["dc2","dc1"]}}}`,
		`{"Kind":"service-resolver","Name":"fodefault","Failover":{"*":{"Targets":[{"Service":"fodefault"},{"Service":"foself","Datacenter":"dc3"}]}}}`,
		`{"Kind":"service-defaults","Name":"plain","MeshGateway":{"Mode":"remote"},"TransparentProxy":{"DialedDirectly":true}}`,
		`{"Kind":"service-defaults","Name":"ext","ExternalSNI":"e.example"}`,
		`{"Kind":"service-defaults","Name":"web","Protocol":"http"}`,
	} {
		s.entry(body)
	}
	for _, name := range []string{"unknown", "api", "red", "red2", "reddc", "toplain", "empty", "dcs", "fo", "fosub", "fored", "foself", "fodefault", "plain", "ext", "web"} {
		s.noteJSON("/v1/discovery-chain/" + name)
	}
	s.noteJSON("/v1/discovery-chain/fo?compile-dc=dc2")
	s.noteJSON("/v1/discovery-chain/unknown?compile-dc=dc2")
	for _, body := range []string{`{}`, `{"OverrideProtocol":"http","OverrideConnectTimeout":"9s","OverrideMeshGateway":{"Mode":"local"}}`} {
		r := s.call(http.MethodPost, "/v1/discovery-chain/api", body)
		s.note("POST %s: %s", body, s.normal(r.body, "CustomizationHash"))
	}
	s.entry(`{"Kind":"proxy-defaults","Name":"global","MeshGateway":{"Mode":"local"}}`)
	s.noteJSON("/v1/discovery-chain/unknown")
	s.noteJSON("/v1/discovery-chain/plain")
}

func chainsRefused(s *session) {
	s.entry(`{"Kind":"service-resolver","Name":"api","Subsets":{"v1":{}}}`)
	s.entry(`{"Kind":"service-resolver","Name":"red","Redirect":{"Service":"api","ServiceSubset":"v1"}}`)
	s.entry(`{"Kind":"service-resolver","Name":"loop1","Redirect":{"Service":"loop2"}}`)
	s.entry(`{"Kind":"service-defaults","Name":"db","Protocol":"http"}`)
	// Consul names the circle from any of its ends.
	circle := s.call(http.MethodPut, "/v1/config", `{"Kind":"service-resolver","Name":"loop2","Redirect":{"Service":"loop1"}}`)
	before, _, _ := strings.Cut(circle.body, "loop")
	s.note("status %d: %s", circle.status, before)
	for _, body := range []string{
		`{"Kind":"service-resolver","Name":"bad","Redirect":{"Service":"api","ServiceSubset":"none"}}`,
		`{"Kind":"service-resolver","Name":"bad","DefaultSubset":"zz"}`,
		`{"Kind":"service-resolver","Name":"bad","Redirect":{"Service":"db"}}`,
		`{"Kind":"service-resolver","Name":"bad","Redirect":{"Service":"x"},"Failover":{"*":{"Service":"x"}}}`,
		`{"Kind":"service-resolver","Name":"bad","Failover":{"*":{}}}`,
		`{"Kind":"service-resolver","Name":"bad","Failover":{"zz":{"Service":"api"}}}`,
		`{"Kind":"service-resolver","Name":"bad","Failover":{"*":{"ServiceSubset":"t"}}}`,
		`{"Kind":"service-resolver","Name":"bad","LoadBalancer":{"Policy":"bogus"}}`,
		`{"Kind":"service-resolver","Name":"api"}`,
		`{"Kind":"service-defaults","Name":"api","Protocol":"http"}`,
		`{"Kind":"service-defaults","Name":"api","ExternalSNI":"e.example"}`,
	} {
		s.noteAnswer(http.MethodPut, "/v1/config", body)
	}
	s.noteAnswer(http.MethodDelete, "/v1/config/service-resolver/api", "")
	s.noteJSON("/v1/config/service-resolver")
}
