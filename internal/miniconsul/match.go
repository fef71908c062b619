// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"math"
	"regexp"
	"slices"
	"strings"
)

// count returns how many of words are not empty.
func count(words ...string) int {
	n := 0
	for _, w := range words {
		if w != "" {
			n++
		}
	}
	return n
}

// word is not empty if b is set.
func word(b bool) string {
	if b {
		return "set"
	}
	return ""
}

func checkPath(name, path string) error {
	if path != "" && !strings.HasPrefix(path, "/") {
		return refuse("%s doesn't start with '/': %q", name, path)
	}
	return nil
}

// upper writes the methods of a match as they are sent. What is stored already
// is left alone.
func upper(methods []string) {
	for i, m := range methods {
		if u := strings.ToUpper(m); u != m {
			methods[i] = u
		}
	}
}

// checkMethods takes methods in upper case.
func checkMethods(prefix string, methods []string) error {
	token := regexp.MustCompile("^[A-Z0-9!#$%&'*+.^_`|~-]+$") // RFC 9110, 5.6.2
	for i, method := range methods {
		if !token.MatchString(method) {
			return refuse("%sMethods contains an invalid method %q", prefix, method)
		}
		if slices.Contains(methods[:i], method) {
			return refuse("%sMethods contains %q more than once", prefix, method)
		}
	}
	return nil
}

// hundredths is a weight as a whole number.
func hundredths(weight float32) int { return int(math.Round(float64(weight * 100))) }
