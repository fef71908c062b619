// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// bom is a bill of materials in the JSON of CycloneDX 1.6, as far as it is used.
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Ref        string          `json:"bom-ref"`
	Type       string          `json:"type"`
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	Scope      string          `json:"scope,omitempty"`
	Hashes     []hash          `json:"hashes,omitempty"`
	Licences   []licenceChoice `json:"licenses"`
	PURL       string          `json:"purl"`
	Properties []property      `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licenceChoice struct {
	Licence licenceID `json:"license"`
}

type licenceID struct {
	ID string `json:"id"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// billOfMaterials says what the binary is made of. Its serial number follows from
// the binary, so that the same binary has the same.
func (s settings) billOfMaterials(info *debug.BuildInfo, modules []module) ([]byte, error) {
	content, err := os.ReadFile(s.binary)
	if err != nil {
		return nil, fmt.Errorf("read the binary: %w", err)
	}
	digest := sha256.Sum256(content)
	main := component{
		Type: "application", Name: "outrider", Version: s.version,
		Hashes:   []hash{{"SHA-256", hex.EncodeToString(digest[:])}},
		Licences: []licenceChoice{{licenceID{"MPL-2.0"}}},
		PURL:     "pkg:golang/" + info.Main.Path + "@" + s.version,
	}
	main.Ref = main.PURL
	for _, build := range info.Settings {
		if slices.Contains([]string{"GOOS", "GOARCH", "CGO_ENABLED", "-trimpath"}, build.Key) {
			main.Properties = append(main.Properties, property{"go:build:" + strings.TrimPrefix(build.Key, "-"), build.Value})
		}
	}
	out := bom{
		Format: "CycloneDX", SpecVersion: "1.6", Serial: serial(digest), Version: 1,
		Metadata: metadata{time.Unix(s.date, 0).UTC().Format(time.RFC3339), main},
	}
	all := dependency{Ref: main.Ref}
	for _, m := range modules {
		c := m.component()
		out.Components = append(out.Components, c)
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	out.Dependencies = []dependency{all}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the bill of materials: %w", err)
	}
	return append(text, '\n'), nil
}

func (m module) component() component {
	c := component{Type: "library", Name: m.path, Version: m.version, Scope: "required", PURL: "pkg:golang/" + m.path + "@" + m.version}
	c.Ref = c.PURL
	for _, l := range m.licences {
		if choice := (licenceChoice{licenceID{l.id}}); !slices.Contains(c.Licences, choice) {
			c.Licences = append(c.Licences, choice)
		}
	}
	if m.sum != "" {
		c.Properties = []property{{"go:sum", m.sum}}
	}
	return c
}

// serial is a UUID of version 8 (RFC 9562), whose bits are those of the digest.
func serial(digest [sha256.Size]byte) string {
	id := digest[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
