// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A cursor reads a line from left to right.
type cursor struct{ rest string }

// word returns what stands up to the next blank, "" at the end.
func (c *cursor) word() string {
	c.rest = strings.TrimLeft(c.rest, " \t")
	end := strings.IndexAny(c.rest, " \t")
	if end < 0 {
		end = len(c.rest)
	}
	word := c.rest[:end]
	c.rest = c.rest[end:]
	return word
}

// call reads what stands before the equals sign.
func (e *Expectation) call(line string) error {
	source, rest, found := arrow(line)
	if !found {
		return fmt.Errorf("it has no arrow: write who calls whom, as in %s", example)
	}
	source = strings.TrimSpace(source)
	if peer, name, ofPeer := strings.Cut(source, "/"); ofPeer {
		if peer == "" || name == "" {
			return fmt.Errorf("the caller is %q: write the name of a service, or peer/service", source)
		}
		e.Peer, source = peer, name
	}
	c := &cursor{rest}
	e.Source, e.Destination = source, c.word()
	if err := checkName("the caller", e.Source); err != nil {
		return err
	}
	if err := checkName("the called service", e.Destination); err != nil {
		return err
	}
	word := c.word()
	if word != "" && word != "with" {
		e.Method, e.Path = word, c.word()
		if err := checkRequest(e.Method, e.Path); err != nil {
			return err
		}
		word = c.word()
	}
	for n := 0; word != ""; word = c.word() {
		if n++; n > maxClauses {
			return fmt.Errorf("it has more than %d times \"with\"", maxClauses)
		}
		if word != "with" {
			return fmt.Errorf("%q stands where only \"with header NAME: VALUE\" or \"with jwt {…}\" can: a path has no blanks", word)
		}
		if err := e.with(c); err != nil {
			return err
		}
	}
	if e.Method == "" && len(e.Header)+len(e.Tokens)+len(e.Authority) > 0 {
		return errors.New("only a request has headers and tokens: write a method and a path before \"with\"")
	}
	return nil
}

// arrow parts a line at its first arrow.
func arrow(line string) (source, rest string, found bool) {
	for i := range line {
		for _, sign := range []string{"→", "->"} {
			if rest, ok := strings.CutPrefix(line[i:], sign); ok {
				return line[:i], rest, true
			}
		}
	}
	return "", "", false
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s has no name: write it as in %s", what, example)
	case strings.Contains(name, connect.Wildcard):
		return fmt.Errorf("%s is %q: name one service; an expectation is about one call", what, name)
	case strings.ContainsAny(name, " \t/\"{}"):
		return fmt.Errorf("%s is %q, which is no name of a service", what, name)
	}
	return nil
}

func checkRequest(method, path string) error {
	if strings.ToUpper(method) != method || strings.ContainsFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' && r != '_' }) {
		return fmt.Errorf("the method is %q: write it in capitals, as in GET /admin", method)
	}
	switch {
	case path == "" || path == "with":
		return fmt.Errorf("%s has no path: write one, as in %s /admin", method, method)
	case path[0] != '/' && (path != "*" || method != "OPTIONS"):
		return fmt.Errorf("the path is %q: it must begin with a slash", path)
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("the path %q has control characters", path)
	}
	return nil
}

// with reads one clause.
func (e *Expectation) with(c *cursor) error {
	switch what := c.word(); what {
	case "header":
		return e.withHeader(c)
	case "jwt":
		return e.withToken(c)
	default:
		return fmt.Errorf("with what? %q is not known: write with header NAME: VALUE, or with jwt {\"claim\": \"value\"}", what)
	}
}

// withHeader reads "NAME: VALUE", the value in quotes or up to the next "with".
func (e *Expectation) withHeader(c *cursor) error {
	const remedy = "write it as in with header x-team: blue"
	name, rest, found := strings.Cut(c.rest, ":")
	name = strings.TrimSpace(name)
	if !found || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/;<=>?@[]{}\\", r) }) {
		return errors.New("a header has no name that could be one: " + remedy)
	}
	rest = strings.TrimLeft(rest, " \t")
	var value string
	if strings.HasPrefix(rest, `"`) {
		quoted, err := strconv.QuotedPrefix(rest)
		if err == nil {
			value, err = strconv.Unquote(quoted)
		}
		if err != nil {
			return fmt.Errorf("the value of header %s is not well quoted: %s", name, remedy)
		}
		c.rest = rest[len(quoted):]
	} else {
		end := strings.Index(rest, " with ")
		if end < 0 {
			end = len(rest)
		}
		value, c.rest = strings.TrimSpace(rest[:end]), rest[end:]
	}
	if strings.ContainsFunc(value, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f }) {
		return fmt.Errorf("the value of header %s has control characters, which no header can", name)
	}
	if strings.EqualFold(name, "host") {
		e.Authority = value
		return nil
	}
	key := textproto.CanonicalMIMEHeaderKey(name)
	e.Header[key] = append(e.Header[key], value)
	return nil
}

// withToken reads "{…}" or "PROVIDER {…}".
func (e *Expectation) withToken(c *cursor) error {
	const remedy = `write it as in with jwt {"role": "admin"}, or with jwt PROVIDER {}`
	before, _, found := strings.Cut(c.rest, "{")
	if !found {
		return errors.New("a jwt has no claims: " + remedy)
	}
	token := Token{Provider: strings.TrimSpace(before)}
	if strings.ContainsAny(token.Provider, " \t\"") {
		return fmt.Errorf("%q is no name of a JWT provider: %s", token.Provider, remedy)
	}
	decoder := json.NewDecoder(strings.NewReader(c.rest[len(before):]))
	if err := decoder.Decode(&token.Claims); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("a brace is not closed")
		}
		return fmt.Errorf("the claims are not JSON: %w: %s", err, remedy)
	}
	c.rest = c.rest[len(before)+int(decoder.InputOffset()):]
	if len(e.Tokens) > 0 && (token.Provider == "" || e.Tokens[0].Provider == "") {
		return errors.New("of several tokens, each must name its provider: with jwt PROVIDER {…}")
	}
	e.Tokens = append(e.Tokens, token)
	return nil
}
