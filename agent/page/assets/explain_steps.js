// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// An explanation of the agent as steps, each with a title and what it says.

import { h } from "./dom.js";
import { stamp, when, plural } from "./format.js";
import { code, facts, mark, table } from "./table.js";

// chain is the steps in the order in which a call takes them.
export function chain(e) {
  const out = e.Outbound ? outbound(e.Outbound) : [{ title: "Outbound", body: h("p", null, `No sidecar of ${e.Source} is on this host: what it does is not known here.`) }];
  for (const side of e.Inbound ?? []) out.push(inbound(side));
  return out;
}

function outbound(o) {
  const out = [{
    title: `Upstream ${o.Upstream || "unknown"}`, kind: o.Reason ? "bad" : null,
    body: [stop(o), facts([
      ["Listener", o.Listener && code(o.Listener)], ["Protocol", o.Protocol],
      ["Identity presented", o.Identity && code(o.Identity), true], ["Sidecar", o.ProxyID], ["Snapshot", o.Snapshot],
    ]), ...rest(o)],
  }];
  if (o.Rule) {
    out.push({ title: `Router rule ${o.Rule.Number} of ${o.Rule.Of}`, body: h("p", null, o.Rule.Match, o.Rule.Path ? [", the path becomes ", code(o.Rule.Path)] : "") });
  }
  for (const way of o.Ways ?? []) out.push(...wayOf(way));
  return out;
}

function wayOf(way) {
  const share = way.Share === 10000 ? "" : `${way.Share / 100} %: `;
  const out = [{
    title: `${share}${way.Node || "resolver"}`, kind: way.Reason ? "bad" : null,
    body: [stop(way), h("p", null, way.Splitter ? `Chosen by ${way.Splitter}. ` : "",
      way.Balance?.Value ? `Endpoints are chosen by ${way.Balance.Value} (${way.Balance.Origin}).` : "")],
  }];
  for (const target of way.Targets ?? []) out.push(targetOf(target));
  return out;
}

function targetOf(t) {
  const all = t.Endpoints ?? [];
  return {
    title: `Target ${t.ID}${t.Failover ? `, number ${t.Failover + 1} in the order of failover` : ""}`,
    kind: t.Called ? null : "unused",
    body: [
      h("p", null, t.Called ? "It is called." : "It is not called as long as one before it can be."),
      facts([
        ["Subset", t.Subset && `${t.Subset}${t.Filter ? ` (${t.Filter})` : ""}`], ["Datacenter", t.Datacenter], ["Peer", t.Peer], ["Through", t.Through],
        ["Server name", t.SNI && code(t.SNI), true], ["Identity expected", t.Expects?.length ? t.Expects.map((id) => h("div", { key: id }, code(id))) : "", true],
        ["Connect timeout", t.Connect?.Value && `${t.Connect.Value} (${t.Connect.Origin})`],
      ]),
      all.length === 0 ? h("p", { key: "none" }, "It has no endpoints.") : table(plural(all.length, "endpoint"), [
        { name: "Address", wide: true, of: (p) => code(p.Address) }, { name: "Node", wide: true, of: (p) => p.Node || "–" }, { name: "Weight", num: true, of: (p) => p.Weight },
        { name: "State", of: (p) => (p.NotUsed ? [mark("bad", "not used"), ` ${p.NotUsed}`] : p.Chosen ? mark("good", "may be chosen") : "used") },
        { name: "Last failure", of: (p) => p.LastFailure || "–" },
      ], all, (p, i) => `${p.ID} ${i}`),
    ],
  };
}

function inbound(side) {
  const title = `Intentions of ${side.Service}`;
  if (side.Unknown) return { title, kind: "unused", body: h("p", null, side.Unknown) };
  return {
    title, kind: side.Allowed ? null : "bad",
    body: [
      h("p", null, side.Allowed ? mark("good", "allowed") : mark("bad", side.Reason || "denied"), side.Why ? ` ${side.Why}` : ""),
      facts([
        ["Intention", side.Intention && `${side.Intention}, precedence ${side.Precedence ?? 0}${side.Permission ? `, permission ${side.Permission}` : ""}`],
        ["Caller", side.Caller && code(side.Caller), true], ["Path judged", side.Path && code(side.Path)], ["Decided by", side.From],
        ["Token of", side.Tokens?.join(" or ")], ["Application", side.Application && code(side.Application)], ...written(side.Written),
      ]),
      side.Permissions?.length ? table("Permissions of the intention, in order", [
        { name: "#", num: true, of: (p) => p.Number }, { name: "Match", of: (p) => p.Match },
        { name: "Action", of: (p) => [p.Action, p.Tokens?.length ? `, with a token of ${p.Tokens.join(" or ")}` : ""] },
        { name: "", of: (p) => (p.Decides ? mark("warn", "decides") : "") },
      ], side.Permissions, (p) => p.Number) : null,
      ...rest(side),
    ],
  };
}

function written(w) {
  if (!w) return [];
  return [
    ["Written in", w.Entry], ["Description", w.Description], ["Written by", w.By],
    ["Metadata", Object.entries(w.Meta ?? {}).map(([name, value]) => `${name} = ${value}`).join(", ")],
    ["Changed at", Number.isFinite(when(w.UpdatedAt)) ? stamp(when(w.UpdatedAt)) : w.Modified ? `index ${w.Modified}` : ""], ["Author", w.Problem],
  ];
}

// stop says why it goes no further than this step.
function stop(step) {
  return step.Reason ? h("p", { key: "stop", class: "problem" }, code(step.Reason), step.Why ? ` ${step.Why}` : "") : null;
}

// rest is what both sides may say besides.
function rest(side) {
  const l = side.Lately;
  return [
    l && h("p", { key: "lately" }, `Lately, at ${stamp(when(l.At))}: `, code(l.Reason), ` ${l.Why}`, l.Endpoint ? ` (${l.Endpoint})` : "", l.Since ? `; ${plural(l.Since, "call")} since then went well.` : ""),
    ...(side.Notes ?? []).map((note, i) => h("p", { key: `note ${i}`, class: "muted" }, note)),
  ];
}
