// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"strconv"
	"text/template/parse"

	"github.com/hashicorp/go-sockaddr"
)

// A result is what a call in an address template gives: addresses of this
// machine, or text.
type result struct {
	addrs sockaddr.IfAddrs
	text  string
}

// An addressFunction is a function of go-sockaddr's templates. Its arguments are
// texts; in is what stands before the bar.
type addressFunction struct {
	arguments int
	takes     bool // it works on addresses
	run       func(args []string, in sockaddr.IfAddrs) (result, error)
}

// addressFunctions are those of go-sockaddr's template package, by name. That
// package itself is not used: it runs text/template, which may call any method
// by its name, so that the linker keeps all of them, a quarter of the binary.
func addressFunctions() map[string]addressFunction {
	return map[string]addressFunction{
		"GetAllInterfaces":     interfaces(sockaddr.GetAllInterfaces),
		"GetDefaultInterfaces": interfaces(sockaddr.GetDefaultInterfaces),
		"GetPrivateInterfaces": interfaces(sockaddr.GetPrivateInterfaces),
		"GetPublicInterfaces":  interfaces(sockaddr.GetPublicInterfaces),

		"GetPrivateIP":    ofMachine(sockaddr.GetPrivateIP),
		"GetPrivateIPs":   ofMachine(sockaddr.GetPrivateIPs),
		"GetPublicIP":     ofMachine(sockaddr.GetPublicIP),
		"GetPublicIPs":    ofMachine(sockaddr.GetPublicIPs),
		"GetInterfaceIP":  ofInterface(sockaddr.GetInterfaceIP),
		"GetInterfaceIPs": ofInterface(sockaddr.GetInterfaceIPs),

		"sort":    filter1(sockaddr.SortIfBy),
		"unique":  filter1(sockaddr.UniqueIfAddrsBy),
		"include": filter2(sockaddr.IncludeIfs),
		"exclude": filter2(sockaddr.ExcludeIfs),
		"math":    filter2(sockaddr.IfAddrsMath),
		"limit": filter1(func(n string, in sockaddr.IfAddrs) (sockaddr.IfAddrs, error) {
			most, err := strconv.ParseUint(n, 10, 16)
			if err != nil {
				return nil, errors.New("limit takes a whole number")
			}
			return sockaddr.LimitIfAddrs(uint(most), in)
		}),
		"offset": filter1(func(n string, in sockaddr.IfAddrs) (sockaddr.IfAddrs, error) {
			from, err := strconv.ParseInt(n, 10, 16)
			if err != nil {
				return nil, errors.New("offset takes a whole number")
			}
			return sockaddr.OffsetIfAddrs(int(from), in)
		}),
		"attr": {1, true, func(args []string, in sockaddr.IfAddrs) (result, error) {
			text, err := sockaddr.IfAttrs(args[0], in)
			return result{text: text}, err
		}},
		"join": {2, true, func(args []string, in sockaddr.IfAddrs) (result, error) {
			text, err := sockaddr.JoinIfAddrs(args[0], args[1], in)
			return result{text: text}, err
		}},
	}
}

func interfaces(f func() (sockaddr.IfAddrs, error)) addressFunction {
	return addressFunction{0, false, func([]string, sockaddr.IfAddrs) (result, error) {
		addrs, err := f()
		return result{addrs: addrs}, err
	}}
}

func ofMachine(f func() (string, error)) addressFunction {
	return addressFunction{0, false, func([]string, sockaddr.IfAddrs) (result, error) {
		text, err := f()
		return result{text: text}, err
	}}
}

func ofInterface(f func(string) (string, error)) addressFunction {
	return addressFunction{1, false, func(args []string, _ sockaddr.IfAddrs) (result, error) {
		text, err := f(args[0])
		return result{text: text}, err
	}}
}

func filter1(f func(string, sockaddr.IfAddrs) (sockaddr.IfAddrs, error)) addressFunction {
	return addressFunction{1, true, func(args []string, in sockaddr.IfAddrs) (result, error) {
		addrs, err := f(args[0], in)
		return result{addrs: addrs}, err
	}}
}

func filter2(f func(string, string, sockaddr.IfAddrs) (sockaddr.IfAddrs, error)) addressFunction {
	return addressFunction{2, true, func(args []string, in sockaddr.IfAddrs) (result, error) {
		addrs, err := f(args[0], args[1], in)
		return result{addrs: addrs}, err
	}}
}

// checkPipe checks the form of a template without asking this machine.
func checkPipe(pipe *parse.PipeNode) error {
	if len(pipe.Decl) > 0 {
		return errors.New("a template has no variables here")
	}
	for i, command := range pipe.Cmds {
		name, args, err := callOf(command)
		if err != nil {
			return err
		}
		f := addressFunctions()[name]
		switch {
		case len(args) != f.arguments:
			return fmt.Errorf("%s takes %d arguments", name, f.arguments)
		case f.takes && i == 0:
			return fmt.Errorf("%s works on addresses: write {{ GetAllInterfaces | %s }}", name, command)
		case !f.takes && i > 0:
			return fmt.Errorf("%s stands at the beginning", name)
		}
	}
	return nil
}

// callOf takes a call apart: its function, which the parser has found to exist,
// and its arguments.
func callOf(command *parse.CommandNode) (name string, args []string, err error) {
	function, ok := command.Args[0].(*parse.IdentifierNode)
	if !ok {
		return "", nil, fmt.Errorf("%s is no call of a function", command)
	}
	for _, node := range command.Args[1:] {
		switch node := node.(type) {
		case *parse.StringNode:
			args = append(args, node.Text)
		case *parse.NumberNode:
			args = append(args, node.Text)
		default:
			return "", nil, fmt.Errorf("%s is no text and no number", node)
		}
	}
	return function.Ident, args, nil
}

// runPipe asks this machine; the pipe has been checked.
func runPipe(pipe *parse.PipeNode) (result, error) {
	var r result
	for _, command := range pipe.Cmds {
		name, args, err := callOf(command)
		if err != nil {
			return result{}, err
		}
		if r, err = addressFunctions()[name].run(args, r.addrs); err != nil {
			return result{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, nil
}
