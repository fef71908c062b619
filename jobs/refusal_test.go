// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"
)

const (
	bridged   = `"Networks":[{"Mode":"bridge"}]`
	meshedWeb = `"Services":[{"Name":"web","Connect":{"SidecarService":{}}}]`
	onWindows = `"Constraints":[{"LTarget":"${attr.kernel.name}","RTarget":"windows","Operand":"="}]`
)

// inGroup is a job of one group with these parts.
func inGroup(parts ...string) string {
	return `{"ID":"j","TaskGroups":[{"Name":"g",` + strings.Join(parts, ",") + `}]}`
}

func withUpstreams(list string) string {
	return inGroup(bridged, `"Services":[{"Name":"web","Connect":{"SidecarService":{"Proxy":{"Upstreams":[`+list+`]}}}}]`)
}

// redirecting is a service with these parts of transparent_proxy and sidecar_task.
func redirecting(transparent, task string) string {
	return `"Services":[{"Name":"web","Connect":{"SidecarService":{"Proxy":{"TransparentProxy":{` + transparent + `}}},"SidecarTask":{` + task + `}}}]`
}

func parsed(t *testing.T, text string) *api.Job {
	t.Helper()
	d, err := ReadJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d.job
}

// Each rule is here with a job that breaks it alone, and with its nearest neighbour
// that does not.
func TestEachReasonRefusesByItselfAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	mesh := defaults(func(s *Settings) { s.User, s.UID = "mesh", "990" })
	root := defaults(func(s *Settings) { s.User = "root" })
	for name, tc := range map[string]struct {
		job      string
		settings Settings
		want     string // "" is not refused
	}{
		"plain":                       {inGroup(bridged, meshedWeb), DefaultSettings(), ""},
		"cni network":                 {inGroup(`"Networks":[{"Mode":"cni/mesh"}]`, meshedWeb), DefaultSettings(), ""},
		"another network":             {inGroup(`"Networks":[{"Mode":"cnix"}]`, meshedWeb), DefaultSettings(), `network mode "cnix"`},
		"two networks":                {inGroup(`"Networks":[{"Mode":"bridge"},{"Mode":"bridge"}]`, meshedWeb), DefaultSettings(), "has 2 network blocks"},
		"group on Windows":            {inGroup(bridged, meshedWeb, onWindows), DefaultSettings(), "constrained to Windows"},
		"job on Windows":              {`{"ID":"j",` + onWindows + `,` + inGroup(bridged, meshedWeb)[len(`{"ID":"j",`):], DefaultSettings(), "constrained to Windows"},
		"not on Windows":              {inGroup(bridged, meshedWeb, strings.Replace(onWindows, `"="`, `"!="`, 1)), DefaultSettings(), ""},
		"provider of Nomad":           {inGroup(bridged, strings.Replace(meshedWeb, `"Name"`, `"Provider":"nomad","Name"`, 1)), DefaultSettings(), `provider "nomad"`},
		"provider of Consul":          {inGroup(bridged, strings.Replace(meshedWeb, `"Name"`, `"Provider":"consul","Name"`, 1)), DefaultSettings(), ""},
		"task service in the mesh":    {inGroup(bridged, meshedWeb, `"Tasks":[{"Name":"a","Services":[{"Name":"x","Connect":{"SidecarService":{}}}]}]`), DefaultSettings(), "a service of the group only"},
		"task service that is native": {inGroup(bridged, meshedWeb, `"Tasks":[{"Name":"a","Services":[{"Name":"x","Connect":{"Native":true}}]}]`), DefaultSettings(), ""},

		"one port":              {withUpstreams(`{"DestinationName":"a","LocalBindPort":1},{"DestinationName":"b","LocalBindAddress":"127.0.0.1","LocalBindPort":1}`), DefaultSettings(), "are both at 127.0.0.1:1"},
		"one port, two hosts":   {withUpstreams(`{"DestinationName":"a","LocalBindPort":1},{"DestinationName":"b","LocalBindAddress":"127.0.0.2","LocalBindPort":1}`), DefaultSettings(), ""},
		"one socket":            {withUpstreams(`{"DestinationName":"a","LocalBindSocketPath":"/s"},{"DestinationName":"b","LocalBindSocketPath":"/s"}`), DefaultSettings(), "are both at /s"},
		"neither port nor path": {withUpstreams(`{"DestinationName":"a"},{"DestinationName":"b"}`), DefaultSettings(), ""},
		"one port in two services": {inGroup(bridged, `"Services":[{"Name":"x","Connect":{"SidecarService":{"Proxy":{"Upstreams":[{"DestinationName":"a","LocalBindPort":1}]}}}},
			{"Name":"y","Connect":{"SidecarService":{"Proxy":{"Upstreams":[{"DestinationName":"a","LocalBindPort":1}]}}}}]`), DefaultSettings(), "are both at 127.0.0.1:1"},

		"redirected":              {inGroup(bridged, redirecting(``, ``)), DefaultSettings(), ""},
		"redirected with another": {inGroup(bridged, strings.TrimSuffix(redirecting(``, ``), "]")+`,{"Name":"y","Connect":{"SidecarService":{}}}]`), DefaultSettings(), "Nomad takes one connect block there"},
		"uid of nobody":           {inGroup(bridged, redirecting(`"UID":"65534"`, `"User":"nobody"`)), DefaultSettings(), ""},
		"uid of somebody else":    {inGroup(bridged, redirecting(`"UID":"7"`, `"User":"nobody"`)), DefaultSettings(), "make them one user"},
		"uid without a user":      {inGroup(bridged, redirecting(`"UID":"7"`, ``)), DefaultSettings(), "name the user who has it"},
		"user without a uid":      {inGroup(bridged, redirecting(``, `"User":"me"`)), DefaultSettings(), "whose uid only the clients know"},
		"user of the settings":    {inGroup(bridged, redirecting(`"UID":"990"`, ``)), mesh, ""},
		"uid not of the settings": {inGroup(bridged, redirecting(`"UID":"991"`, `"User":"mesh"`)), mesh, "make them one user"},
		"task of that user":       {inGroup(bridged, redirecting(``, ``), `"Tasks":[{"Name":"a","Driver":"docker","User":"nobody"}]`), DefaultSettings(), `task "a" runs as user "nobody"`},
		"exec task of no user":    {inGroup(bridged, redirecting(``, ``), `"Tasks":[{"Name":"a","Driver":"exec"}]`), DefaultSettings(), `task "a" runs as user "nobody"`},
		"raw_exec task of none":   {inGroup(bridged, redirecting(``, ``), `"Tasks":[{"Name":"a","Driver":"raw_exec"}]`), root, `task "a" runs as user "root"`},
		"raw_exec beside nobody":  {inGroup(bridged, redirecting(``, ``), `"Tasks":[{"Name":"a","Driver":"raw_exec"}]`), DefaultSettings(), ""},

		"exec as root": {inGroup(bridged, `"Services":[{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":{"Driver":"exec","User":"0:0","Config":{"command":"outrider"}}}}]`), DefaultSettings(), "as which driver exec runs no task"},
		"cores":        {inGroup(bridged, `"Services":[{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":{"Resources":{"Cores":1}}}}]`), DefaultSettings(), "ask for cores"},
	} {
		_, err := Inject(parsed(t, tc.job), tc.settings)
		refused, ok := errors.AsType[*Refusal](err)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: refused with %v", name, err)
		case tc.want != "" && (!ok || len(refused.Reasons) != 1 || !strings.Contains(refused.Reasons[0], tc.want)):
			t.Errorf("%s: error %v, want one reason with %q", name, err, tc.want)
		}
	}
}

func TestSettingsNameTheUserWhoIsNotRedirected(t *testing.T) {
	t.Parallel()
	settings := defaults(func(s *Settings) { s.User, s.UID = "mesh", "990" })
	got, err := Inject(parsed(t, inGroup(bridged, redirecting(``, ``))), settings)
	if err != nil || len(got.Services) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if after := got.Services[0].after; after.task.User != "mesh" || after.transparent.UID != "990" {
		t.Errorf("user %q, uid %q", after.task.User, after.transparent.UID)
	}
}

func TestServicesThatAreNoSidecarsAreLeftAlone(t *testing.T) {
	t.Parallel()
	for want, connect := range map[string]string{
		"connect-native":  `{"Native":true,"SidecarService":{}}`,
		"it is a gateway": `{"Gateway":{"Ingress":{}},"SidecarService":{}}`,
	} {
		got, err := Inject(parsed(t, inGroup(bridged, `"Services":[{"Name":"x","Connect":`+connect+`},{"Name":"web","Connect":{"SidecarService":{}}}]`)), DefaultSettings())
		if err != nil || len(got.Services) != 1 || got.Services[0].Service != "web" || len(got.Notices) != 1 || !strings.Contains(got.Notices[0], want) {
			t.Errorf("%+v, %v; want web alone and a notice with %q", got, err, want)
		}
	}
	// A sidecar with an image is its author's, unless the client chooses the image.
	byHand := `"Tasks":[{"Name":"m","Kind":"connect-proxy:web","Driver":"docker","Config":{"image":"registry/sidecar:1"}}]`
	if got, err := Inject(parsed(t, inGroup(bridged, meshedWeb, byHand)), DefaultSettings()); err != nil || len(got.Services) != 0 || got.Ready != 1 {
		t.Errorf("%+v, %v; want the task to be left alone", got, err)
	}
	// The sidecar of one service is not that of another.
	got, err := Inject(parsed(t, inGroup(bridged, meshedWeb, `"Tasks":[{"Name":"m","Kind":"connect-proxy:webshop"}]`)), DefaultSettings())
	if err != nil || len(got.Services) != 1 || got.Ready != 0 {
		t.Errorf("%+v, %v; want a sidecar for web", got, err)
	}
}

// What an author wrote is worth more than any flag.
func TestWhatTheJobSaysStays(t *testing.T) {
	t.Parallel()
	const task = `{"Driver":"docker","User":"me","KillTimeout":7000000000,"ShutdownDelay":3000000000,"KillSignal":"SIGINT","Meta":{"a":"b"},
		"Config":{"command":"outrider","image":"x"},"Env":{"CONSUL_HTTP_ADDR":"10.0.0.1:8500","MINE":"1"},
		"Resources":{"CPU":77,"MemoryMB":99,"MemoryMaxMB":128},"LogConfig":{"MaxFiles":9,"MaxFileSizeMB":8},
		"Identities":[{"Name":"outrider_consul","Audience":["mine"],"File":true}]}`
	text := inGroup(bridged, `"Services":[{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":`+task+`}}]`)
	settings := defaults(func(s *Settings) {
		s.User, s.CPU, s.Memory, s.LogMaxFiles, s.LogMaxFileSize = "other", 50, 32, 2, 5
		s.ConsulAddress, s.ConsulLogin = "10.9.9.9:8500", "m"
	})
	job := parsed(t, text)
	got, err := Inject(job, settings)
	if err != nil || len(got.Services) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	var want api.SidecarTask
	if err := json.Unmarshal([]byte(task), &want); err != nil {
		t.Fatal(err)
	}
	want.Driver, want.Config = "raw_exec", map[string]any{"command": "outrider", "args": []string{"sidecar"}}
	want.Env["CONSUL_LOGIN_AUTH_METHOD"], want.Env["OUTRIDER_KILL_TIMEOUT"] = "m", "7s"
	if diff := cmp.Diff(&want, got.Services[0].after.task); diff != "" {
		t.Errorf("sidecar task (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(parsed(t, text), job); diff != "" {
		t.Errorf("the job that was given has changed (-before +after):\n%s", diff)
	}
}

func TestAKillTimeoutThatClientsCutIsNoticed(t *testing.T) {
	t.Parallel()
	for limit, want := range map[time.Duration]int{maxKillTimeout: 0, maxKillTimeout + time.Second: 1} {
		got, err := Inject(parsed(t, inGroup(bridged, meshedWeb)), defaults(func(s *Settings) { s.KillTimeout = limit }))
		if err != nil || len(got.Notices) != want {
			t.Errorf("%s: notices %q, %v; want %d", limit, got.Notices, err, want)
		}
	}
}
