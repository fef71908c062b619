// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"context"
	"testing"
)

// FuzzInject injects into any JSON: nothing panics, and injecting into what comes
// out changes nothing.
func FuzzInject(f *testing.F) {
	for _, text := range []string{
		`{"ID":"j","TaskGroups":[{"Name":"g","Networks":[{"Mode":"bridge"}],"Services":[{"Name":"w","Connect":{"SidecarService":{}}}]}]}`,
		`{"ID":"j","TaskGroups":[{"Networks":[{"Mode":"bridge"}],"Tasks":[{"Driver":"docker"}],"Services":[{"Connect":{"SidecarService":{"Proxy":{"TransparentProxy":{"UID":"1"},"Upstreams":[{"LocalBindPort":1}]}},"SidecarTask":{"User":"a","Driver":"exec","Config":{"args":[1]},"Env":{},"LogConfig":{},"Identities":[{}],"Resources":{"CPU":1}}}}]}]}`,
		`{"Job":{"ID":"j","Constraints":[{}],"TaskGroups":[{"Services":[{"Connect":{"Gateway":{}}}]}]}}`,
	} {
		f.Add([]byte(text))
	}
	settings := defaults(func(s *Settings) {
		s.Vault.PKIRole, s.ConsulLogin, s.User, s.UID, s.LogMaxFiles = "r", "m", "mesh", "900", 2
	})
	f.Fuzz(func(t *testing.T, text []byte) {
		source := Source{Name: "f", Text: text, JSON: true}
		once, err := (&Client{}).InjectSource(context.Background(), source, settings)
		if err != nil || len(once.Changes.Services) == 0 {
			return
		}
		source.Text = once.Text
		twice, err := (&Client{}).InjectSource(context.Background(), source, settings)
		if err != nil || len(twice.Changes.Services) != 0 {
			t.Fatalf("%s\nbecame\n%s\nwhich changes again: %v", text, once.Text, err)
		}
	})
}
