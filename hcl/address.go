// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"text/template/parse"

	"github.com/zclconf/go-cty/cty"
)

// maxTemplate bounds an address with templates, in bytes.
const maxTemplate = 1 << 10

// address decodes a string in which {{ … }} stands for an address of the machine
// that runs the agent, as in the configurations of Consul and Nomad.
func (s *scope) address(name string, into *string) {
	s.str(name, into)
	*into = s.d.expand(s.path(name), *into)
}

// expand replaces each {{ … }} of a text by one IP address.
func (d *decoder) expand(path, text string) string {
	if !strings.Contains(text, "{{") {
		return text
	}
	parts, err := addressParts(text)
	if err != nil {
		d.bad(path, d.pos.near(path), "Wrong address template", sentence(err))
		return ""
	}
	var b strings.Builder
	for _, p := range parts {
		if p.call == nil {
			b.WriteString(p.text)
			continue
		}
		addr, err := d.machine.address(p.text, p.call)
		if err != nil {
			d.bad(path, d.pos.near(path), "No address", sentence(err))
			return ""
		}
		b.WriteString(addr)
	}
	if d.machine.metadata == nil {
		d.left(path, d.pos.near(path), "The address", cty.StringVal(text))
	}
	return b.String()
}

// A part of a text is a template, or what stands around it.
type part struct {
	text string
	call *parse.PipeNode // nil for what stands around
}

// addressParts takes a text apart. Templates are calls of go-sockaddr's functions
// and nothing else: text/template has loops, definitions and functions that can
// fill the memory.
func addressParts(text string) ([]part, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("it has more than %d characters", maxTemplate)
	}
	known := map[string]any{}
	for name := range addressFunctions() {
		known[name] = true // The parser wants something that is not nil.
	}
	trees, err := parse.Parse("address", text, "", "", known)
	if err != nil {
		_, why, _ := strings.Cut(err.Error(), "address:1: ")
		return nil, fmt.Errorf("%s; write {{ GetPrivateIP }}, {{ GetInterfaceIP \"eth0\" }} or another template of go-sockaddr", why)
	}
	var parts []part
	for _, node := range trees["address"].Root.Nodes {
		switch node := node.(type) {
		case *parse.TextNode:
			parts = append(parts, part{text: string(node.Text)})
		case *parse.ActionNode:
			if err := checkPipe(node.Pipe); err != nil {
				return nil, err
			}
			parts = append(parts, part{node.String(), node.Pipe})
		default:
			return nil, errors.New("a template is a call such as {{ GetPrivateIP }} here, without conditions and loops")
		}
	}
	return parts, nil
}

// address returns the one address that a template gives.
func (m machine) address(template string, call *parse.PipeNode) (string, error) {
	if m.metadata == nil {
		return m.stand(template), nil
	}
	result, err := runPipe(call)
	if errors.Is(err, exec.ErrNotFound) || err != nil && strings.Contains(err.Error(), "/ip: no such file") {
		return "", fmt.Errorf("%s needs the program ip to find the default route; install iproute2, or name the interface: {{ GetInterfaceIP \"eth0\" }}", template)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; write another template, or the address itself", template, err)
	}
	text := strings.TrimSpace(result.text)
	if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" {
		return "", fmt.Errorf("%s gives %q on this machine, which is not one address; write another template, or the address itself", template, shorten(text))
	}
	return text, nil
}

// shorten keeps a list of many addresses from filling a message.
func shorten(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
