// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The latest calls that were not served, each with what led to it.

import { h } from "./dom.js";
import { ago, bytes, count, latency, plural, stamp, when } from "./format.js";
import { code, facts, mark, table } from "./table.js";
import { unfold } from "./unfold.js";

const most = 100;

export function failures(source, chosen, choose, now) {
  const all = source.data?.Failures ?? [];
  const services = [...new Set(all.map((f) => f.Service))].sort();
  const shown = all.filter((f) => chosen === "" || f.Service === chosen);
  return h("section", { id: "failures", tabindex: "-1", "aria-labelledby": "failures-h" },
    h("div", { class: "title" }, h("h2", { id: "failures-h" }, "Denials and failures"),
      source.data && h("span", { class: "muted" }, `${count(source.data.Total)} since the agent began`)),
    services.length > 1 && filter(services, chosen, choose),
    body(source, shown, now),
    shown.length > most && h("p", { key: "more", class: "muted" }, `The newest ${most} of ${shown.length} are shown. `, code("outrider status -failures"), " shows all."));
}

function body(source, shown, now) {
  if (source.absent) return h("p", { key: "absent", class: "muted" }, "This agent keeps no failures.");
  if (!source.data) return h("p", { key: "wait", class: "muted" }, source.error ? `They cannot be read: ${source.error}.` : "Asking for them.");
  if (shown.length === 0) return h("p", { key: "none", class: "muted" }, "Everything was served.");
  const seen = new Map();
  return h("ol", { key: "some", class: "failures" }, shown.slice(0, most).map((f) => {
    const name = `${f.Time} ${f.ProxyID} ${f.Direction} ${f.Downstream}`;
    seen.set(name, (seen.get(name) ?? 0) + 1);
    const id = `${name} ${seen.get(name)}`;
    return h("li", { key: id }, failure(id, f, now));
  }));
}

function filter(services, chosen, choose) {
  return h("div", { key: "filter", class: "filter", role: "group", "aria-label": "Service" }, ["", ...services].map((name) =>
    h("button", { key: name, type: "button", "aria-pressed": String(name === chosen), on: { click: () => choose(name) } }, name || "All services")));
}

function failure(id, f, now) {
  const from = f.Source || f.Downstream || "somebody";
  const to = f.Direction === "inbound" || f.Direction === "exposed" ? f.Service : f.Upstream || f.Endpoint || "outside";
  const at = when(f.Time);
  return unfold(id, false, null,
    [
      h("time", { class: "num", datetime: f.Time, title: stamp(at) }, ago(at, now)), " ",
      mark(f.Reason === "intention_denied" || f.Reason === "jwt_invalid" ? "warn" : "bad", f.Reason), " ",
      h("b", null, `${from} → ${to}`), " ",
      f.Method && code(`${f.Method} ${f.Path ?? ""}`), " ",
      h("span", { class: "muted" }, f.Status ? `${f.Direction}, status ${f.Status}` : f.Direction),
    ],
    () => [
      f.Why && h("p", { class: "why" }, f.Remote ? "The sidecar of the other side: " : "", f.Why),
      f.Tries?.length ? tries(f.Tries) : null,
      facts(about(f, at)),
    ]);
}

function tries(all) {
  return table(`${plural(all.length, "try", "tries")}, in order`, [
    { name: "#", num: true, of: (t, i) => i + 1 },
    { name: "Endpoint", wide: true, of: (t) => code(t.Endpoint) },
    { name: "After", num: true, of: (t) => latency(t.StartMS) },
    { name: "Took", num: true, of: (t) => latency(t.TookMS) },
    { name: "Outcome", of: (t) => [t.Reason ? [code(t.Reason), " "] : "", t.Error || (t.Status ? `status ${t.Status}` : "")] },
  ], all, (t, i) => i);
}

function about(f, at) {
  return [
    ["Time", stamp(at)], ["Took", latency(f.TookMS)],
    ["Handshake", f.HandshakeMS ? latency(f.HandshakeMS) : ""], ["First byte after", f.FirstByteMS ? latency(f.FirstByteMS) : ""],
    ["Intention", f.Intention ? `${f.Intention}, precedence ${f.Precedence ?? 0}${f.Permission ? `, permission ${f.Permission}` : ""}` : ""],
    ["Host", f.Authority], ["Path as it came", f.OriginalPath && code(f.OriginalPath)],
    ["Protocol", f.Protocol], ["gRPC status", f.GRPCStatus],
    ["Target", f.Target && code(f.Target)], ["Resolver", f.Node && code(f.Node)], ["Router rule", f.Rule],
    ["Endpoint", f.Endpoint && code(f.Endpoint)], ["Connected from", f.Downstream && code(f.Downstream)], ["Gateway", f.Gateway],
    ["Bytes in / out", f.Sent || f.Received ? `${bytes(f.Sent ?? 0)} / ${bytes(f.Received ?? 0)}` : ""],
    ["Retries", f.Retries], ["Trace", f.TraceID && code(f.TraceID)], ["Snapshot", f.Snapshot], ["Sidecar", f.ProxyID],
  ];
}
