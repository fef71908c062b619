// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The head of the page: what this agent is, how old the data are, and what is
// wrong.

import { h } from "./dom.js";
import { ago, span, stamp, when, plural } from "./format.js";
import { code, facts, mark } from "./table.js";

export function hostHeader(status, freshness, now) {
  const ready = status?.Sidecars?.filter((s) => s.Ready).length ?? 0;
  const all = status?.Sidecars?.length ?? 0;
  return [
    h("div", { class: "title" },
      h("h1", null, "Outrider"),
      status && h("span", { key: "state", id: "state" }, state(status, ready, all)),
      freshness),
    status && facts([
      ["Version", code(status.Version)],
      ["Up", h("span", { title: `since ${stamp(when(status.Started))}` }, span(now - when(status.Started)))],
      ["Consul", code(status.Consul)],
      ["Vault", status.Vault ? code(status.Vault) : "not used: leaves come from Consul"],
    ]),
  ];
}

function state(status, ready, all) {
  if (status.Draining) return mark("warn", "draining");
  if (all === 0) return mark("warn", "no sidecar");
  return ready === all ? mark("good", `serving ${plural(all, "sidecar")}`) : mark("bad", `${ready} of ${plural(all, "sidecar")} ready`);
}

// freshness says how old the data are.
export function freshness(source, now) {
  if (!source.data) return null;
  return h("span", { key: "fresh", id: "fresh", class: source.error ? "problem" : "muted" },
    source.error ? `${span(now - source.at)} old` : "live");
}

// gone is told aloud by screen readers, and therefore does not count on.
export function gone(source) {
  if (!source.error) return [];
  return [h("p", { key: "gone", class: "notice bad" },
    h("strong", null, "The agent does not answer"), `: ${source.error}. `,
    source.data ? `What follows is from ${stamp(source.at)}. ` : "Is it running, and is the tunnel to it open? ",
    "This page asks again every two seconds.")];
}

export function navigation(status, failures) {
  return h("ul", null,
    (status?.Sidecars ?? []).map((s) => h("li", { key: s.ProxyID }, h("a", { href: anchor(s.ProxyID) }, s.Service))),
    h("li", { key: " failures" }, h("a", { href: "#failures" }, "Denials and failures", failures ? ` (${failures})` : "")),
    h("li", { key: " seen" }, h("a", { href: "#seen" }, "Calls seen")),
    h("li", { key: " sources" }, h("a", { href: "#sources" }, "Sources")));
}

// anchor is the link to a service of this page, or to a part of it.
export function anchor(proxyID, ...part) {
  return `#${["service", proxyID, ...part].map(encodeURIComponent).join("/")}`;
}

// placeOf is the id of what anchor leads to.
export function placeOf(proxyID, ...part) {
  return ["service", proxyID, ...part].join("/");
}

// problems are those of the status, and others that the page has found.
export function problems(status, others, now) {
  const found = [...others, ...findProblems(status, now)];
  return h("section", { id: "problems", "aria-labelledby": "problems-h" },
    h("h2", { id: "problems-h" }, found.length ? `Problems (${found.length})` : "Problems"),
    found.length === 0 ? h("p", { key: "none", class: "muted" }, "None that the agent knows of.")
      : h("ul", { key: "some", class: "problems" }, found.slice(0, 50).map((p) => h("li", { key: p.where + p.what },
        p.href ? h("a", { href: p.href }, p.where) : h("b", null, p.where), `: ${p.what}`))),
    found.length > 50 && h("p", { key: "more" }, `${found.length - 50} more are below, where they belong.`));
}

function findProblems(status, now) {
  const out = [];
  if (status.Draining) out.push({ where: "agent", what: "it is draining: it takes no new connections, and ends when those it has are done" });
  for (const s of status.Sidecars ?? []) out.push(...ofSidecar(s, now));
  for (const w of status.Watches ?? []) {
    if (w.Error) out.push({ where: w.Key, href: "#sources", what: `${w.Error} (${plural(w.Failures, "failure")} in a row, last success ${ago(when(w.LastSuccess), now)})` });
  }
  return out;
}

function ofSidecar(s, now) {
  const out = [];
  const say = (what, ...part) => {
    if (what) out.push({ where: s.Service, href: anchor(s.ProxyID, ...part), what });
  };
  if (s.Missing?.length) say(`it waits for ${s.Missing.join(", ")}`);
  say(s.Problem);
  const until = when(s.Leaf?.NotAfter);
  if (until <= now) say(`its certificate expired ${ago(until, now)}: peers refuse it`, "certificate");
  if (s.Leaf?.Error) say(`its certificate is not renewed: ${s.Leaf.Error}`, "certificate");
  for (const text of s.Proxy?.Problems ?? []) say(text);
  say(s.Proxy?.Inbound?.Problem);
  say(s.Proxy?.Transparent?.Problem);
  for (const u of s.Proxy?.Upstreams ?? []) {
    if (u.Problem) say(`upstream ${u.ID}: ${u.Problem}`, "upstream", u.ID);
    else if (u.Targets?.length && !u.Targets.some((t) => t.Endpoints?.some((e) => !e.NotUsed))) {
      say(`upstream ${u.ID}: no endpoint can be used`, "upstream", u.ID);
    }
  }
  return out;
}
