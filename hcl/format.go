// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

// maxFormatPasses bounds the search for a form that formatting leaves alone; one
// pass is enough for all but odd texts.
const maxFormatPasses = 8

// Format returns the canonical form of a configuration text: indentation by two
// spaces, equals signs of neighbouring lines in one column, one newline at the
// end. It changes white space only and does not check names. The error is an
// [*Error] when the text is not valid HCL.
func Format(src []byte) ([]byte, error) {
	s := newSource("<text>", src)
	if s.diags.HasErrors() {
		return nil, newError([]*source{s}, s.diags)
	}
	text := src
	for range maxFormatPasses {
		next := hclwrite.Format(text)
		next = append(bytes.TrimRight(next, "\n"), '\n')
		if bytes.Equal(next, text) {
			break
		}
		text = next
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return []byte{}, nil
	}
	return text, nil
}
