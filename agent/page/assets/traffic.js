// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The traffic of one source or to one upstream: totals, and plots of now.

import { h } from "./dom.js";
import { count, rate } from "./format.js";
import { latencyPlot, successPlot } from "./plot.js";
import { code } from "./table.js";

const most = 20;

// lines shows the busiest of one side ("Sources" or "Upstreams") of a service.
export function lines(s, side, title, none, view) {
  const all = [...(view.series(s.ProxyID)?.[side] ?? [])].sort((a, b) => b.Calls - a.Calls);
  return h("div", { key: "lines", class: "lines" },
    h("h4", null, title),
    view.seriesMissing ? h("p", { key: "missing", class: "muted" }, view.seriesMissing)
      : all.length === 0 ? h("p", { key: "none", class: "muted" }, none)
        : h("ul", { key: "some", class: "rows" }, all.slice(0, most).map((line) => h("li", { key: line.Name, class: "row" },
          h("div", { class: "what" }, h("h5", null, line.Name), totals(line, view.history.points(s.ProxyID, side, line.Name))),
          plots(s, side, line.Name, line.HTTP, view)))),
    all.length > most && h("p", { key: "more", class: "muted" }, `The ${most} busiest of ${all.length} are shown.`));
}

// totals are the counts since the agent began, and how many there are now.
export function totals(line, points) {
  if (!line) return h("p", { class: "muted" }, "Not called yet.");
  const failed = Object.entries(line.Failed ?? {}).sort(([, a], [, b]) => b - a);
  return h("div", { class: "totals" },
    h("p", null, h("b", { class: "num" }, count(line.Calls)), " calls, ", h("span", { class: "num" }, rate(points.at(-1)?.rate)), " now"),
    failed.length > 0 && h("ul", { key: "failed", class: "reasons" }, failed.map(([reason, n]) => h("li", { key: reason }, code(reason), " ", h("b", { class: "num" }, count(n))))));
}

// plots of a name that nothing was counted of yet are empty, so that rows do not
// change their size when it is called.
export function plots(s, side, name, http, view) {
  const points = view.history.points(s.ProxyID, side, name);
  const called = `${name} ${side === "Sources" ? "calling" : "called by"} ${s.Service}`;
  return h("div", { class: "plots" },
    (http || side === "Upstreams") && latencyPlot(called, http, points, view.history.end),
    successPlot(called, points, view.history.end));
}
