// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func TestDecisionTellsTheIntentionThatCoversTheCaller(t *testing.T) {
	rules := []connect.Intention{{Source: connect.Source{Partition: "default", Namespace: "default", Name: "web"}, Destination: "api", Precedence: 9}}
	p := Compile(Settings{Intentions: rules, TrustDomain: "td"})
	caller := connect.Identity{TrustDomain: "td", Partition: "default", Namespace: "default", Service: "web"}
	if got := p.Authorize(caller).Covering(); got != &rules[0] {
		t.Errorf("web is covered by %+v", got)
	}
	caller.Service = "shop"
	if got := p.Authorize(caller).Covering(); got != nil {
		t.Errorf("shop is covered by %+v", got)
	}
}
