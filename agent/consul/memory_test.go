// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"strings"
	"testing"
)

func TestMemoryOfAServiceIsReadOrNoted(t *testing.T) {
	for config, want := range map[string]struct {
		bytes int64
		note  string
	}{
		`{}`:                              {},
		`{"outrider_memory_mb":64}`:       {bytes: 64 << 20},
		`{"outrider_memory_mb":"64"}`:     {bytes: 64 << 20},
		`{"outrider_memory_mb":0}`:        {},
		`{"outrider_memory_mb":-1}`:       {note: "outrider_memory_mb is not a whole number"},
		`{"outrider_memory_mb":"64MB"}`:   {note: "outrider_memory_mb is not a whole number"},
		`{"outrider_memory_mb":1e300}`:    {note: "outrider_memory_mb is not a whole number"},
		`{"OutriderMemoryMb":2147483647}`: {bytes: 2147483647 << 20},
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Config":`+config), "")
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(r.Warnings, "; "); r.Service.MaxMemory != want.bytes || !strings.Contains(notes, want.note) || (want.note == "") != (notes == "") {
			t.Errorf("%s: %d, %q; want %d, %q", config, r.Service.MaxMemory, notes, want.bytes, want.note)
		}
	}
}
