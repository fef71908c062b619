// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/connect/explain"
)

// explainQuery is what the command line asks for.
type explainQuery struct {
	admin    string
	host     string
	headers  list
	snapshot string // file, "-" for standard input; "" means the running agent
	asJSON   bool
	args     [4]string // source, destination, method, path
}

func runExplain(i invocation) int {
	var q explainQuery
	fs := i.flags("explain", "[-json] [-header 'NAME: VALUE']... [-host NAME] [-snapshot FILE] SRC DST [METHOD PATH]")
	fs.BoolVar(&q.asJSON, "json", false, "print JSON")
	fs.Var(&q.headers, "header", "header `FIELD` of the request, as \"name: value\"; may be given several times")
	fs.StringVar(&q.host, "host", "", "`NAME` that the request is for; else DST")
	fs.StringVar(&q.snapshot, "snapshot", "", "ask this `FILE`, which holds what GET /v1/snapshot of the admin API has answered, and no agent; - is the standard input")
	fs.StringVar(&q.admin, "admin", cmp.Or(os.Getenv("OUTRIDER_ADMIN"), defaultAdmin), "`ADDRESS` of the admin API to ask (OUTRIDER_ADMIN)")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if n := fs.NArg(); n != 2 && n != 4 {
		return i.misuse("explain: %d arguments, want a source and a destination, or also a method and a path: outrider explain web api GET /; flags stand before them", n)
	}
	copy(q.args[:], fs.Args())
	asked, err := explain.New(q.args[0], q.args[1], q.args[2], q.args[3], q.host, q.headers)
	if err != nil {
		return i.misuse("explain: %v", err)
	}
	out, err := i.explained(context.Background(), q, asked)
	if err != nil {
		return i.fail("explain: %v", err)
	}
	if !q.asJSON {
		p := printer{out: i.stdout}
		for _, l := range out.Lines {
			p.line(0, "%-11s %s", l.Step, l.Text)
		}
		return exitOK
	}
	text, err := json.MarshalIndent(out.Explanation, "", "  ")
	if err != nil {
		return i.fail("explain: encode the answer: %v", err)
	}
	_, _ = i.stdout.Write(append(harmless(text), '\n'))
	return exitOK
}

func (i invocation) explained(ctx context.Context, q explainQuery, asked explain.Question) (agent.ExplainAnswer, error) {
	var out agent.ExplainAnswer
	if q.snapshot == "" {
		body, err := askAgent(ctx, q.admin, "/v1/explain?"+q.values().Encode())
		if err != nil {
			return out, err
		}
		if err := json.Unmarshal(body, &out); err != nil {
			return out, fmt.Errorf("understand the agent's answer: %w; client and agent may be of different versions", err)
		}
		return out, nil
	}
	from := i.stdin
	if q.snapshot != "-" {
		file, err := os.Open(q.snapshot)
		if err != nil {
			return out, fmt.Errorf("open the snapshots: %w", err)
		}
		defer func() { _ = file.Close() }()
		from = file
	}
	return agent.ExplainSaved(ctx, from, asked, time.Now())
}

// values are the parameters of the question.
func (q *explainQuery) values() url.Values {
	v := url.Values{"source": {q.args[0]}, "destination": {q.args[1]}}
	for name, value := range map[string]string{"method": q.args[2], "path": q.args[3], "host": q.host} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if len(q.headers) > 0 {
		v["header"] = q.headers
	}
	return v
}
