// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const hostAllocs = `[
 {"ID": "aaaa1111-0000-0000-0000-000000000001", "Namespace": "default", "NodeName": "n1", "JobID": "web", "TaskGroup": "g", "ClientStatus": "running",
  "TaskStates": {"connect-proxy-web": {"State": "running"}, "app": {"State": "running"}},
  "Job": {"ID": "web", "TaskGroups": [
   {"Name": "other", "Tasks": [{"Name": "connect-proxy-no", "Kind": "connect-proxy:no", "Driver": "exec"}]},
   {"Name": "g", "Tasks": [{"Name": "app", "Driver": "docker"}, {"Name": "connect-proxy-web", "Kind": "connect-proxy:web", "Driver": "raw_exec"}]}]}},
 {"ID": "aaaa1111-0000-0000-0000-000000000002", "Namespace": "prod", "JobID": "api", "TaskGroup": "g", "ClientStatus": "pending",
  "Job": {"ID": "api", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "side", "Kind": "connect-proxy:api", "Driver": "docker"}]}]}},
 {"ID": "aaaa1111-0000-0000-0000-000000000003", "Namespace": "default", "JobID": "old", "TaskGroup": "g", "ClientStatus": "complete",
  "Job": {"ID": "old", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "side", "Kind": "connect-proxy:old"}]}]}},
 {"ID": "aaaa1111-0000-0000-0000-000000000004", "Namespace": "default", "JobID": "evil", "TaskGroup": "g", "ClientStatus": "running",
  "Job": {"ID": "evil", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "../../x", "Kind": "connect-proxy:evil"}]}]}},
 {"ID": "..", "Namespace": "default", "JobID": "evil", "TaskGroup": "h", "ClientStatus": "running",
  "Job": {"ID": "evil", "TaskGroups": [{"Name": "h", "Tasks": [{"Name": "side", "Kind": "connect-proxy:evil"}]}]}},
 {"ID": "aaaa1111-0000-0000-0000-000000000005", "Namespace": "default", "JobID": "gw", "TaskGroup": "g", "ClientStatus": "running",
  "Job": {"ID": "gw", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "gw", "Kind": "connect-ingress:gw"}]}]}}
]`

// fakeNomad answers each path with a text; "403" is a refusal.
func fakeNomad(t *testing.T, answers map[string]string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case body == "403":
			http.Error(w, "Permission denied", http.StatusForbidden)
		default:
			_, _ = w.Write([]byte(body))
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("NOMAD_ADDR", server.URL)
	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func nomadSelf(dataDir, allocDir, allocs string) string {
	return `{"config": {"DataDir": "` + dataDir + `", "Client": {"AllocDir": "` + allocDir + `"}, "Version": {"Version": "1.11.3"}},
	 "stats": {"client": {"node_id": "5e1f0000-0000-0000-0000-000000000000", "num_allocations": "` + allocs + `"}}}`
}

const nodeAllocs = "/v1/node/5e1f0000-0000-0000-0000-000000000000/allocations"

func TestHostListsTheSidecarsOfLocalAllocations(t *testing.T) {
	c := fakeNomad(t, map[string]string{"/v1/agent/self": nomadSelf("/opt/nomad", "", "6"), nodeAllocs: hostAllocs})
	got, err := c.Host(t.Context(), fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Host{NodeID: "5e1f0000-0000-0000-0000-000000000000", NodeName: "n1", Sidecars: []HostSidecar{
		{Namespace: "default", Job: "evil", Group: "g", Alloc: "aaaa1111-0000-0000-0000-000000000004", Task: "../../x", Service: "evil", State: "pending"},
		{Namespace: "default", Job: "evil", Group: "h", Alloc: "..", Task: "side", Service: "evil", State: "pending"},
		{
			Namespace: "default", Job: "web", Group: "g", Alloc: "aaaa1111-0000-0000-0000-000000000001", Task: "connect-proxy-web", Service: "web", Driver: "raw_exec", State: "running",
			Socket: "/opt/nomad/alloc/aaaa1111-0000-0000-0000-000000000001/connect-proxy-web/secrets/outrider.sock",
		},
		{
			Namespace: "prod", Job: "api", Group: "g", Alloc: "aaaa1111-0000-0000-0000-000000000002", Task: "side", Service: "api", Driver: "docker", State: "pending",
			Socket: "/opt/nomad/alloc/aaaa1111-0000-0000-0000-000000000002/side/secrets/outrider.sock",
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("host (-want +got):\n%s", diff)
	}
}

func TestHostFindsTheFolderOfAllocations(t *testing.T) {
	mounts := fstest.MapFS{"proc/self/mountinfo": {Data: []byte(
		"64 43 0:40 / /tmp/Nomad\\040Client22/aaaa1111-0000-0000-0000-000000000001/connect-proxy-web/secrets rw,noexec - tmpfs tmpfs rw\n" +
			"65 43 0:41 / /tmp/NomadClient22/aaaa1111-0000-0000-0000-000000000001/app/private rw - tmpfs tmpfs rw\nshort\n")}}
	for name, tc := range map[string]struct {
		self, want string
		root       fs.FS
	}{
		"client.alloc_dir":      {nomadSelf("/opt/nomad", "/allocs", "6"), "/allocs/aaaa1111-0000-0000-0000-000000000001/connect-proxy-web/secrets/outrider.sock", mounts},
		"-dev, by its mounts":   {nomadSelf("", "", "6"), "/tmp/Nomad Client22/aaaa1111-0000-0000-0000-000000000001/connect-proxy-web/secrets/outrider.sock", mounts},
		"-dev, without a mount": {nomadSelf("", "", "6"), "", fstest.MapFS{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := fakeNomad(t, map[string]string{"/v1/agent/self": tc.self, nodeAllocs: hostAllocs})
			host, err := c.Host(t.Context(), tc.root)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range host.Sidecars {
				if s.Job == "web" && s.Socket != tc.want {
					t.Errorf("socket %q, want %q", s.Socket, tc.want)
				}
			}
		})
	}
}

func TestHostSaysWhatATokenLacks(t *testing.T) {
	for name, tc := range map[string]struct {
		answers map[string]string
		want    string
	}{
		"agent:read": {map[string]string{"/v1/agent/self": "403"}, `its policy needs agent { policy = "read" }`},
		"node:read":  {map[string]string{"/v1/agent/self": nomadSelf("/d", "", "1"), nodeAllocs: "403"}, `its policy needs node { policy = "read" }`},
		"a server":   {map[string]string{"/v1/agent/self": `{"config": {}, "stats": {"nomad": {"server": "true"}}}`}, "is no client"},
		"not Nomad":  {map[string]string{"/v1/agent/self": `{"stats": {"client": {"node_id": "../../agent"}}}`}, "is no node ID"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fakeNomad(t, tc.answers).Host(t.Context(), fstest.MapFS{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestHostNotesAllocationsThatATokenMayNotSee(t *testing.T) {
	c := fakeNomad(t, map[string]string{"/v1/agent/self": nomadSelf("/opt/nomad", "", "9"), nodeAllocs: hostAllocs})
	host, err := c.Host(t.Context(), fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Nomad has 9 allocations here and shows 6 of them: the token needs the capability read-job in every namespace"; host.Note != want {
		t.Errorf("note %q, want %q", host.Note, want)
	}
}

func TestNodeTellsWhatNomadFound(t *testing.T) {
	const id = "5e1f0000-0000-0000-0000-000000000000"
	c := fakeNomad(t, map[string]string{
		"/v1/agent/self": `{"config": {"Ports": {"HTTP": 4747}, "Version": {"Version": "1.11.3"}, "Client": {"CNIPath": "/opt/cni/bin"},
		  "Consuls": [{"Name": "east", "Addr": "e:1"}, {"Name": "default", "Addr": "127.0.0.1:8500"}]}, "stats": {"client": {"node_id": "` + id + `"}}}`,
		"/v1/node/" + id: `{"ID": "` + id + `", "Name": "n1", "Status": "ready", "SchedulingEligibility": "eligible",
		  "Attributes": {"consul.version": "1.22.3"}, "Drivers": {"exec": {"Detected": true, "HealthDescription": "no cgroups"}}}`,
	})
	got, err := c.Node(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &Node{
		Address: c.Address(), Port: 4747, Version: "1.11.3", ID: id, Name: "n1", Status: "ready", Eligible: true, ConsulAddress: "127.0.0.1:8500", CNIPath: "/opt/cni/bin",
		Attributes: map[string]string{"consul.version": "1.22.3"}, Drivers: map[string]Driver{"exec": {Detected: true, Description: "no cgroups"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
}
