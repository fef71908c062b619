// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// One service of this host: who it is, who may call it, and whom it calls.

import { h } from "./dom.js";
import { ago, bytes, count, span, stamp, when, plural } from "./format.js";
import { code, facts, mark, table } from "./table.js";
import { certificateBar } from "./plot.js";
import { anchor, placeOf } from "./host.js";
import { lines } from "./traffic.js";
import { upstreams } from "./upstreams.js";

// view is what a service is drawn from: status and series of it, history, now.
export function sidecar(s, view) {
  const head = placeOf(s.ProxyID);
  return h("section", { key: s.ProxyID, class: "service", id: head, tabindex: "-1", "aria-labelledby": `${head}/h` },
    h("div", { class: "title" },
      h("h2", { id: `${head}/h` }, h("a", { href: anchor(s.ProxyID) }, s.Service)),
      s.Ready ? mark("good", "ready") : mark("bad", "not ready"),
      h("span", { class: "muted" }, s.ProxyID)),
    s.Missing?.length ? h("p", { key: "missing" }, `It waits for ${s.Missing.join(", ")}.`) : null,
    s.Problem ? h("p", { key: "problem", class: "problem" }, s.Problem) : null,
    s.Leaf ? identity(s, view.now) : h("p", { key: "none", class: "muted" }, "It has no certificate yet, and serves nothing."),
    s.Proxy?.snapshot ? [inbound(s, view), intentions(s, view), upstreams(s, view)] : null);
}

function part(s, name, title, ...children) {
  const id = placeOf(s.ProxyID, name);
  return h("section", { key: name, class: "part", id, tabindex: "-1", "aria-labelledby": `${id}/h` }, h("h3", { id: `${id}/h` }, title), children);
}

function identity(s, now) {
  const leaf = { from: when(s.Leaf.NotBefore), until: when(s.Leaf.NotAfter), renewal: when(s.Leaf.NextAttempt) };
  const known = Number.isFinite(leaf.until);
  return part(s, "certificate", "Identity and certificate",
    known && h("p", { key: "identity", class: "identity" }, code(s.Leaf.Identity)),
    known ? certificateBar(leaf, now) : h("p", { key: "none" }, "There is no certificate in force."),
    known && h("dl", { key: "times", class: "times" },
      moment("Not before", leaf.from, now), moment("Now", now, now, "now"),
      Number.isFinite(leaf.renewal) ? moment("Next renewal", leaf.renewal, now, "renewal") : h("div", { key: "renewal" }, h("dt", null, "Next renewal"), h("dd", null, "when Consul offers it")),
      moment("Not after", leaf.until, now)),
    s.Leaf.Error && h("p", { key: "error", class: "problem" }, `The renewal fails: ${s.Leaf.Error}`),
    facts([
      ["Issuer", s.Leaf.Issuer], ["Serial", s.Leaf.Serial && code(s.Leaf.Serial)],
      ["Trust bundle", s.Roots?.length ? s.Roots.map((r) => h("div", { key: r.ID }, `${r.Name || r.ID}, ${r.Active ? "active" : "not active"}, until ${stamp(when(r.NotAfter))}`)) : "no roots"],
      ["JWT providers", s.JWTProviders?.length ? s.JWTProviders.map((p) => p.Name ?? "").join(", ") : null],
    ]));
}

// moment has the key of its mark in the bar, if there is one.
function moment(name, ms, now, key) {
  return h("div", { key: name }, h("dt", null, key && h("span", { class: `key ${key}`, "aria-hidden": "true" }), name), h("dd", null, h("time", { datetime: new Date(ms).toISOString() }, stamp(ms)),
    Math.abs(ms - now) > 1000 && h("span", { class: "muted" }, ` (${ago(ms, now)})`)));
}

function inbound(s, view) {
  const p = s.Proxy;
  const refused = Object.entries(p.Refused ?? {}).sort(([, a], [, b]) => b - a);
  return part(s, "inbound", "Inbound",
    facts([
      ["Listener", p.Inbound.Address ? code(p.Inbound.Address) : p.Inbound.Problem || "none"],
      ["Open connections", `${count(p.Inbound.Active)} of at most ${count(p.Inbound.Limit)}`],
      ["Connections", count(p.Inbound.Connections)],
      ["Requests", count(p.Inbound.Requests)],
      ["Bytes in / out", `${bytes(p.Inbound.Sent)} / ${bytes(p.Inbound.Received)}`],
      ["Not served", refused.length ? refused.map(([reason, n]) => h("div", { key: reason }, code(reason), ` ${count(n)}`)) : "nothing yet"],
      ["Snapshot", count(p.snapshot)],
      ["Transparent listener", p.Transparent ? code(p.Transparent.Address || "none") : null],
    ]),
    lines(s, "Sources", "Callers", "Nobody has called yet.", view));
}

function intentions(s, view) {
  const hits = view.hits(s.ProxyID);
  const rows = (s.Intentions ?? []).map((i, place) => ({ ...i, place: place + 1, hits: hits?.at(place, i) }));
  rows.push({ place: "", Source: "any other", Precedence: null, Action: s.DefaultPolicy, from: s.DefaultFrom, hits: hits?.otherwise });
  return part(s, "intentions", "Intentions, in the order of evaluation",
    table(`The first whose source matches decides who may call ${s.Service}.`, [
      { name: "#", num: true, of: (r) => r.place },
      { name: "Source", of: (r) => code(r.Source) },
      { name: "Action", of: (r) => [action(r.Action), r.from ? h("span", { class: "muted" }, ` default policy, ${r.from}`) : ""] },
      { name: "Precedence", num: true, of: (r) => (r.Precedence === null ? "–" : r.Precedence) },
      { name: "Allowed", num: true, of: (r) => hit(r.hits?.Allowed) },
      { name: "Denied", num: true, of: (r) => hit(r.hits?.Denied) },
    ], rows, (r) => `${r.place} ${r.Source}`));
}

function hit(n) {
  return Number.isFinite(n) ? count(n) : "–";
}

function action(text) {
  const kind = /deny/.test(text) ? "bad" : /^allow/.test(text) ? "good" : "warn";
  return mark(kind, text || "not known: deny");
}

// sources are the watches of all services.
export function sources(status, now) {
  const rows = [...(status.Watches ?? [])].sort((a, b) => (b.Error ? 1 : 0) - (a.Error ? 1 : 0));
  return h("section", { id: "sources", tabindex: "-1", "aria-labelledby": "sources-h" },
    h("h2", { id: "sources-h" }, "Sources"),
    rows.length === 0 ? h("p", { key: "none", class: "muted" }, "Nothing is watched yet.")
      : table(`${plural(rows.length, "question")} whose answers are kept up to date.`, [
        { name: "Source", of: (w) => code(w.Key) },
        { name: "Last success", of: (w) => age(when(w.LastSuccess), now) },
        { name: "State", of: (w) => (w.Error ? [mark("bad", plural(w.Failures, "failure")), ` ${w.Error}`] : mark("good", "fine")) },
        { name: "Expires", of: (w) => (Number.isFinite(when(w.Expires)) ? ago(when(w.Expires), now) : "–") },
      ], rows, (w, i) => `${w.Key} ${i}`));
}

function age(at, now) {
  return Number.isFinite(at) ? h("time", { datetime: new Date(at).toISOString(), title: stamp(at) }, `${span(Math.max(0, now - at))} ago`) : "never";
}
