// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The upstreams of a service with their targets and endpoints.

import { h } from "./dom.js";
import { ago, count, when, plural } from "./format.js";
import { code, facts, mark, table } from "./table.js";
import { placeOf } from "./host.js";
import { plots, totals } from "./traffic.js";
import { unfold } from "./unfold.js";

export function upstreams(s, view) {
  const all = s.Proxy.Upstreams ?? [];
  const id = placeOf(s.ProxyID, "upstreams");
  const lines = new Map((view.series(s.ProxyID)?.Upstreams ?? []).map((line) => [line.Name, line]));
  return h("section", { key: "upstreams", class: "part", id, tabindex: "-1", "aria-labelledby": `${id}/h` },
    h("h3", { id: `${id}/h` }, "Upstreams"),
    facts([["Ejections", count(s.Proxy.Ejections)], ["Retries", count(s.Proxy.Retries)],
      ["Failed tries", reasons(s.Proxy.Attempts)]]),
    all.length === 0 ? h("p", { key: "none", class: "muted" }, `${s.Service} has no upstreams.`)
      : h("ul", { key: "some", class: all.length > 20 ? "rows many" : "rows" }, all.map((u) => upstream(s, u, lines.get(u.ID), view))));
}

function reasons(counts) {
  const all = Object.entries(counts ?? {});
  return all.length ? all.map(([reason, n]) => h("div", { key: reason }, code(reason), ` ${count(n)}`)) : "none";
}

function upstream(s, u, line, view) {
  const endpoints = (u.Targets ?? []).flatMap((t) => t.Endpoints ?? []);
  const used = endpoints.filter((e) => !e.NotUsed).length;
  const id = placeOf(s.ProxyID, "upstream", u.ID);
  return h("li", { key: u.ID, class: "row", id, tabindex: "-1" },
    h("div", { class: "what" },
      h("h4", null, u.ID, u.Implicit && h("span", { class: "muted" }, " (implicit)")),
      h("p", null, u.Address ? code(u.Address) : u.VirtualIPs?.length ? code(u.VirtualIPs.join(", ")) : h("span", { class: "muted" }, "no listener"),
        ` · ${count(u.Active)} open of ${count(u.Limit)}`),
      u.Problem && h("p", { key: "problem", class: "problem" }, u.Problem),
      totals(line, view.history.points(s.ProxyID, "Upstreams", u.ID))),
    plots(s, "Upstreams", u.ID, line?.HTTP ?? true, view),
    unfold(id, used < endpoints.length && endpoints.length <= 20 && s.Proxy.Upstreams.length <= 10, { class: "targets" },
      [`${plural((u.Targets ?? []).length, "target")}, `,
        used === endpoints.length && used > 0 ? plural(used, "endpoint") + " in use" : mark(used ? "warn" : "bad", `${used} of ${plural(endpoints.length, "endpoint")} in use`)],
      () => (u.Targets ?? []).map((t, i) => target(t, i, u.Targets.length, view.now))));
}

function target(t, place, all, now) {
  const of = all > 1 ? `, number ${place + 1} in the order of failover` : "";
  return h("div", { key: t.ID, class: "target" },
    h("p", { class: "muted" }, `Server name ${t.SNI}${t.Through ? `, through ${t.Through}` : ""}`),
    (t.Endpoints ?? []).length === 0 ? h("p", { key: "none" }, `Target ${t.ID}${of} has no endpoints.`)
      : table(`Endpoints of target ${t.ID}${of}`, [
        { name: "Address", wide: true, of: (e) => code(e.Address) },
        { name: "Node", wide: true, of: (e) => e.Node || "–" },
        { name: "Weight", num: true, of: (e) => e.Weight },
        { name: "Active", num: true, of: (e) => count(e.Active) },
        { name: "State", of: (e) => [e.NotUsed ? mark("bad", "not used") : mark("good", "used"), e.NotUsed ? ` ${untilWhen(e.NotUsed, now)}` : ""] },
        { name: "Last failure", of: (e) => e.LastFailure || "–" },
      ], t.Endpoints, (e, i) => `${e.ID} ${e.Address} ${i}`));
}

// untilWhen adds to a moment in a text how far away it is.
function untilWhen(text, now) {
  return text.replace(/\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)/, (moment) => `${moment} (${ago(when(moment), now)})`);
}
