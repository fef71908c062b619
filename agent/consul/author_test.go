// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// What Consul 1.22 answers for an entry with two sources, and for one that was
// written through the older API of intentions.
const (
	authoredAPI = `{"Kind":"service-intentions","Name":"api","Sources":[
		{"Name":"web","Action":"allow","Precedence":9,"Type":"consul","Description":"web reads"},
		{"Name":"web","Peer":"east","Action":"allow","Precedence":9,"Type":"consul","Description":"east reads"}],
		"Meta":{"external-source":"terraform","team":"payments"},"CreateIndex":18,"ModifyIndex":20}`
	authoredLegacy = `{"Kind":"service-intentions","Name":"legacy","Sources":[{"Name":"old","Action":"allow","Precedence":9,"Type":"consul",
		"LegacyMeta":{"by":"anna"},"LegacyCreateTime":"2026-11-21T17:28:11Z","LegacyUpdateTime":"2026-11-22T17:28:11Z"}],"CreateIndex":22,"ModifyIndex":23}`
)

func ruleOf(source connect.Source, destination string) connect.Intention {
	if source.Partition == "" {
		source.Partition = "default"
	}
	source.Namespace = "default"
	return connect.Intention{Source: source, Destination: destination, Namespace: "default"}
}

func TestAuthorIsWhatTheConfigEntryTells(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/config/service-intentions/api", says(authoredAPI))
	a.answer("/v1/config/service-intentions/legacy", says(authoredLegacy))
	meta := map[string]string{"external-source": "terraform", "team": "payments"}
	for name, tc := range map[string]struct {
		rule connect.Intention
		want Author
	}{
		"a source":           {ruleOf(connect.Source{Name: "web"}, "api"), Author{Meta: meta, External: "terraform", Description: "web reads", Created: 18, Changed: 20}},
		"a source of a peer": {ruleOf(connect.Source{Name: "web", Peer: "east"}, "api"), Author{Meta: meta, External: "terraform", Description: "east reads", Created: 18, Changed: 20}},
		"one that has gone":  {ruleOf(connect.Source{Name: "shop"}, "api"), Author{Meta: meta, External: "terraform", Created: 18, Changed: 20}},
		"the older API": {ruleOf(connect.Source{Name: "old"}, "legacy"), Author{
			Meta: map[string]string{"by": "anna"}, Created: 22, Changed: 23,
			CreatedAt: time.Date(2026, 11, 21, 17, 28, 11, 0, time.UTC), ChangedAt: time.Date(2026, 11, 22, 17, 28, 11, 0, time.UTC),
		}},
	} {
		got, err := a.client(t, nil).Author(t.Context(), tc.rule)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestAuthorThatCannotBeReadSaysWhatIsMissing(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/config/service-intentions/api", fails(http.StatusForbidden, "Permission denied"))
	a.answer("/v1/config/service-intentions/gone", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "9")
		w.WriteHeader(http.StatusNotFound)
	})
	c := a.client(t, nil)
	_, err := c.Author(t.Context(), ruleOf(connect.Source{Name: "web"}, "api"))
	wantError(t, err, `who wrote the intentions for "api"`, `intentions:read on service "api"`)
	_, err = c.Author(t.Context(), ruleOf(connect.Source{Name: "web"}, "gone"))
	wantError(t, err, "no such config entry any more")
	_, err = c.Author(t.Context(), ruleOf(connect.Source{Name: "web"}, "a/../b"))
	wantError(t, err, "cannot be part of a path")
}
