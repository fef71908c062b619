// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The calls that this host has seen, from which intentions can be suggested.
// They are asked for only while somebody looks: there may be many.

import { h } from "./dom.js";
import { ago, count, stamp, when } from "./format.js";
import { code, mark, table } from "./table.js";
import { unfold } from "./unfold.js";

const most = 200;

export function edges(source, now) {
  return h("section", { id: "seen", tabindex: "-1", "aria-labelledby": "seen-h" },
    h("h2", { id: "seen-h" }, "Calls seen"),
    unfold("seen", false, null, ["Who has called whom, as far back as this host remembers"], () => body(source, now)));
}

function body(source, now) {
  if (source.absent) return h("p", { key: "absent", class: "muted" }, "This agent does not remember calls.");
  if (!source.data) return h("p", { key: "wait", class: "muted" }, source.error ? `They cannot be read: ${source.error}.` : "Asking for them.");
  const all = [...(source.data.Edges ?? [])].sort((a, b) => b.Count - a.Count);
  if (all.length === 0) return h("p", { key: "none", class: "muted" }, "No call has been judged yet.");
  const of = all.length > most ? `The ${most} most frequent of ${count(all.length)}` : "The most frequent first";
  const forgotten = source.data.Forgotten ? `; ${count(source.data.Forgotten)} calls found no room` : "";
  return table(of + forgotten, [
    { name: "Source", of: (e) => e.Peer ? `${e.Peer}/${e.Source}` : e.Source },
    { name: "Destination", of: (e) => e.Destination },
    { name: "Call", of: (e) => (e.Method ? code(`${e.Method} ${e.Path}`) : "connection") },
    { name: "Seen", of: (e) => e.Direction },
    { name: "Verdict", of: (e) => (e.Allowed ? mark("good", "allowed") : mark("bad", "denied")) },
    { name: "Count", num: true, of: (e) => count(e.Count) },
    { name: "Last", of: (e) => h("span", { title: stamp(when(e.Last)) }, ago(when(e.Last), now)) },
  ], all.slice(0, most), (e) => JSON.stringify([e.Direction, e.Peer, e.Namespace, e.Partition, e.Source, e.Destination, e.Method, e.Path, e.Allowed]));
}
