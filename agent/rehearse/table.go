// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/outrider-mesh/outrider/connect"
)

// Bounds of a table.
const (
	maxTable        = 1 << 20 // bytes
	maxExpectations = 10_000
	maxLine         = 16 << 10 // bytes
	maxClauses      = 32       // "with" of one line
	maxFindings     = 50       // mistakes that are told one by one
)

// A Table is what a file expects of the intentions.
type Table struct {
	File string
	// Default is what the file says the default policy is; nil when it does not.
	Default      *connect.Action
	DefaultLine  int
	Expectations []Expectation
}

// An Expectation is one line: who calls whom, how, and what becomes of it.
type Expectation struct {
	File string
	Line int
	Text string // the line without its comment

	Peer, Source string
	Destination  string
	// Method and Path are "" for a connection without HTTP.
	Method, Path string
	Authority    string // what the header Host says; "" for the destination's name
	Header       connect.Header
	Tokens       []Token
	Want         connect.Action
	Reason       connect.Reason // "" for any
}

// A Token is one that the provider has signed, in time and for its audience.
type Token struct {
	Provider string // "" for the only one there is
	Claims   map[string]any
}

// ParseTable reads a table:
//
//	# who may call the API
//	default = deny
//	web → api GET /admin = deny
//	web -> api GET /reports with header x-team: blue = allow
//	web -> api POST /admin with jwt {"role": "admin"} = allow
//	east/web -> db = deny intention_denied
//
// The error names every line that cannot be read and what to write there.
func ParseTable(name string, src []byte) (*Table, error) {
	switch {
	case len(src) > maxTable:
		return nil, fmt.Errorf("%s: %d bytes, more than the limit of %d: split it into several files", name, len(src), maxTable)
	case !utf8.Valid(src):
		return nil, fmt.Errorf("%s: it is not UTF-8 text: check that it is a table of expectations", name)
	}
	t := &Table{File: name}
	var found []error
	for i, line := range strings.Split(string(src), "\n") {
		if err := t.add(i+1, strings.TrimSuffix(line, "\r")); err != nil {
			found = append(found, fmt.Errorf("%s:%d: %w", name, i+1, err))
		}
		if len(found) == maxFindings {
			found = append(found, fmt.Errorf("%s: too many mistakes; mend these first", name))
			break
		}
	}
	if len(found) == 0 && len(t.Expectations) == 0 {
		found = append(found, fmt.Errorf("%s: it expects nothing: write lines such as %q", name, example))
	}
	return t, errors.Join(found...)
}

const example = "web -> api GET /admin = deny"

func (t *Table) add(number int, line string) error {
	if len(line) > maxLine {
		return fmt.Errorf("the line has %d bytes, more than the limit of %d", len(line), maxLine)
	}
	line, result, err := split(line)
	if err != nil || line == "" {
		return err
	}
	if line == "default" {
		return t.setDefault(number, result)
	}
	if len(t.Expectations) == maxExpectations {
		return fmt.Errorf("there are more than %d expectations: split the file", maxExpectations)
	}
	e := Expectation{File: t.File, Line: number, Text: line + " = " + result, Header: connect.Header{}}
	if err := e.want(result); err != nil {
		return err
	}
	if err := e.call(line); err != nil {
		return err
	}
	t.Expectations = append(t.Expectations, e)
	return nil
}

func (t *Table) setDefault(number int, result string) error {
	action, err := connect.ParseAction(result)
	switch {
	case err != nil:
		return fmt.Errorf("the default is %q: write default = allow, or default = deny", result)
	case t.Default != nil:
		return fmt.Errorf("the default is in line %d already: keep one", t.DefaultLine)
	case len(t.Expectations) > 0:
		return errors.New("the default belongs above the first expectation")
	}
	t.Default, t.DefaultLine = &action, number
	return nil
}

// split takes the comment off a line and parts it at its last " = ". Both count
// outside quotes only.
func split(line string) (call, result string, err error) {
	quoted, at := false, -1
	end := len(line)
scan:
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '#' && (i == 0 || isBlank(line[i-1])):
			end = i
			break scan
		case b == '=' && i > 0 && isBlank(line[i-1]) && (i+1 == len(line) || isBlank(line[i+1])):
			at = i
		}
	}
	switch text := strings.TrimSpace(line[:end]); {
	case quoted:
		return "", "", errors.New("a quote is not closed: add it, or write the value without quotes")
	case text == "":
		return "", "", nil
	case at < 0:
		return "", "", fmt.Errorf("it does not say what is expected: end it with \" = allow\" or \" = deny\", as in %s", example)
	}
	return strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+1 : end]), nil
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

// want reads what stands behind the equals sign.
func (e *Expectation) want(result string) error {
	words := strings.Fields(result)
	if len(words) == 0 || len(words) > 2 {
		return fmt.Errorf("%q is expected: write allow or deny, and behind deny a reason if you like", result)
	}
	var err error
	if e.Want, err = connect.ParseAction(words[0]); err != nil {
		return fmt.Errorf("%q is expected: write allow or deny", words[0])
	}
	if len(words) == 1 {
		return nil
	}
	e.Reason = connect.Reason(words[1])
	if of := reasons(); e.Want == connect.Allow || !slices.Contains(of, e.Reason) {
		return fmt.Errorf("%q is no reason here: behind deny there may be one of %s", words[1], join(of))
	}
	return nil
}

// reasons are those that a rehearsal can come to.
func reasons() []connect.Reason {
	return []connect.Reason{connect.IntentionDenied, connect.JWTInvalid, connect.RequestInvalid}
}

func join(of []connect.Reason) string {
	var words []string
	for _, r := range of {
		words = append(words, string(r))
	}
	return strings.Join(words, ", ")
}
