// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package tap

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// maxParameter bounds a value that a watcher gives, in bytes.
const maxParameter = 512

// A Filter says what a watcher wants to see. Empty fields match everything; all
// that are given have to match.
type Filter struct {
	Service   string // the local one
	Direction string
	Source    string // "web" or "east/web"
	Upstream  string
	Reason    connect.Reason
	Status    string // "404", or a class: "4xx"
	Method    string
	Path      string // a prefix
	Kind      string // connection or request; "" leaves out connections that only carried requests
	Failed    bool
}

func (f *Filter) match(r *flow.Record) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	switch {
	case f.Failed && !r.Failed():
		return false
	case f.Kind == "" && r.Kind == flow.Connection && r.Requests > 0 && !r.Failed():
		return false
	case f.Kind != "" && (f.Kind == "request") != (r.Kind == flow.Request):
		return false
	case f.Source != "" && f.Source != r.Source.Label():
		return false
	case f.Path != "" && !strings.HasPrefix(r.PathOnly(), f.Path):
		return false
	}
	return is(f.Service, r.Service) && is(f.Direction, r.Direction.String()) && is(f.Upstream, string(r.Upstream)) &&
		is(string(f.Reason), string(r.Reason)) && is(f.Method, r.Method) && f.status(r.Status)
}

func (f *Filter) status(got int) bool {
	switch {
	case f.Status == "":
		return true
	case strings.HasSuffix(f.Status, "xx"):
		return int(f.Status[0]-'0') == got/100
	}
	return f.Status == strconv.Itoa(got)
}

// wants is what a watcher asks for.
type wants struct {
	Filter
	show
	rate int // events each second
}

// parse reads the parameters of a watcher. A name or value that cannot match is
// an error: silence would be taken for an answer.
func parse(q url.Values) (wants, error) {
	w := wants{rate: DefaultRate}
	for name, values := range q {
		if len(values) > 1 || len(values[0]) > maxParameter {
			return w, fmt.Errorf("%.64q is given twice, or is longer than %d bytes", name, maxParameter)
		}
		if err := w.set(name, values[0]); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (w *wants) set(name, value string) error {
	text := map[string]*string{"service": &w.Service, "source": &w.Source, "upstream": &w.Upstream, "path": &w.Path}[name]
	truth := map[string]*bool{"failed": &w.Failed, "headers": &w.headers, "unsafe": &w.unsafe}[name]
	switch {
	case text != nil:
		*text = value
		return nil
	case truth != nil:
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%s is %.64q; give 1 or 0", name, value)
		}
		*truth = yes
		return nil
	}
	switch name {
	case "direction":
		w.Direction = value
		return oneOf(name, value, "inbound", "outbound", "exposed", "passed")
	case "kind":
		w.Kind = value
		return oneOf(name, value, "connection", "request")
	case "reason":
		w.Reason = connect.Reason(value)
		if !slices.Contains(connect.Reasons(), w.Reason) {
			return fmt.Errorf("there is no reason %.64q; the reasons are %v", value, connect.Reasons())
		}
		return nil
	case "method":
		w.Method = strings.ToUpper(value)
		return nil
	case "status":
		w.Status = strings.ToLower(value)
		return checkStatus(w.Status)
	case "rate":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > MaxRate {
			return fmt.Errorf("rate is %.64q; give a number from 1 to %d", value, MaxRate)
		}
		w.rate = n
		return nil
	}
	return fmt.Errorf("there is no filter %.64q; there are service, direction, source, upstream, reason, status, method, path, kind, failed, rate, headers and unsafe", name)
}

func oneOf(name, value string, words ...string) error {
	if !slices.Contains(words, value) {
		return fmt.Errorf("%s is %.64q; give one of %s", name, value, strings.Join(words, ", "))
	}
	return nil
}

func checkStatus(text string) error {
	class, isClass := strings.CutSuffix(text, "xx")
	n, err := strconv.Atoi(class)
	if err != nil || isClass && (n < 1 || n > 5) || !isClass && (n < 100 || n > 599) {
		return fmt.Errorf("status is %.64q; give a number such as 404, or a class such as 4xx", text)
	}
	return nil
}
