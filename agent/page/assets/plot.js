// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Small plots of the last five minutes, with their axes in words and the same
// said as text.

import { h } from "./dom.js";
import { latency, share, span, stamp, ago } from "./format.js";
import { kept } from "./history.js";

const box = { width: 300, height: 84, left: 52, right: 4, top: 8, bottom: 18 };

// latencyPlot is about requests, or about connections until they were made.
export function latencyPlot(name, http, points, end) {
  const title = http ? "Latency" : "Time to connect";
  const top = niceTop(Math.max(...points.map((p) => p.p99).filter(Number.isFinite), 1));
  const now = points.at(-1);
  const worst = Math.max(...points.map((p) => p.p99).filter(Number.isFinite));
  const text = Number.isFinite(worst)
    ? `${title} of ${name}, last 5 minutes: p50 ${latency(now?.p50)} and p99 ${latency(now?.p99)} now, p99 at most ${latency(worst)}.`
    : `${title} of ${name}: nothing measured in the last 5 minutes.`;
  return plot({
    title, text, end, top: latency(top), bottom: "0 ms",
    lines: [
      { name: "p99", class: "line p99", points: points.map((p) => [p.at, p.p99 / top]) },
      { name: "p50", class: "line p50", points: points.map((p) => [p.at, p.p50 / top]) },
    ],
    legend: [key("p50"), `p50 ${latency(now?.p50)}  `, key("p99"), `p99 ${latency(now?.p99)}`],
  });
}

export function successPlot(name, points, end) {
  const known = points.map((p) => p.good).filter(Number.isFinite);
  const now = points.at(-1);
  const worst = Math.min(1, ...known);
  // Few failures among many calls are seen, too.
  const bottom = (known.length > 0 && [0.99, 0.95, 0.9, 0.5].find((floor) => worst >= floor)) || 0;
  const text = known.length
    ? `Success of ${name}, last 5 minutes: ${share(now?.good)} now, ${share(worst)} at worst.`
    : `Success of ${name}: no calls in the last 5 minutes.`;
  return plot({
    title: "Success", text, end, top: "100 %", bottom: `${bottom * 100} %`,
    lines: [{ name: "success", class: "line good", points: points.map((p) => [p.at, (p.good - bottom) / (1 - bottom)]) }],
    legend: `${share(now?.good)}`,
  });
}

function key(name) {
  return h("span", { key: name, class: `key ${name}`, "aria-hidden": "true" });
}

function plot({ title, text, end, top, bottom, lines, legend }) {
  const right = box.width - box.right;
  const floor = box.height - box.bottom;
  return h("figure", { class: "plot" },
    h("figcaption", null, h("b", null, title), " ", h("span", { class: "num" }, legend)),
    h("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "img", "aria-label": text, focusable: "false" },
      h("line", { class: "grid", x1: box.left, x2: right, y1: box.top, y2: box.top }),
      h("line", { class: "axis", x1: box.left, x2: right, y1: floor, y2: floor }),
      h("text", { class: "tick", x: box.left - 5, y: box.top + 4, "text-anchor": "end" }, top),
      h("text", { class: "tick", x: box.left - 5, y: floor + 3, "text-anchor": "end" }, bottom),
      h("text", { class: "tick", x: box.left, y: box.height - 4 }, `${span(kept)} ago`),
      h("text", { class: "tick", x: right, y: box.height - 4, "text-anchor": "end" }, "now"),
      lines.map((line) => h("path", { key: line.name, class: line.class, "data-points": count(line.points), d: path(line.points, end) }))));
}

function count(points) {
  return points.filter(([, y]) => Number.isFinite(y)).length;
}

// path draws points (time, part of the height); where nothing is known it has a
// gap, and a point alone is a short stroke.
function path(points, end) {
  const wide = box.width - box.left - box.right;
  const high = box.height - box.top - box.bottom;
  let out = "";
  let pen = false;
  for (const [at, part] of points) {
    if (!Number.isFinite(part)) {
      pen = false;
      continue;
    }
    const x = (box.left + wide * (1 - (end - at) / kept)).toFixed(1);
    const y = (box.top + high * (1 - Math.min(1, Math.max(0, part)))).toFixed(1);
    out += pen ? `L${x} ${y}` : `M${x} ${y}h.8`;
    pen = true;
  }
  return out;
}

// niceTop is the next of 1, 2, 5, 10, 20 … at or above a value.
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((n) => n * power >= value * 0.999);
}

// certificateBar shows the life of a certificate: what is over, now, the next
// renewal where it is known, and the end.
export function certificateBar(leaf, now) {
  const { from, until, renewal } = leaf;
  const at = (moment) => 600 * Math.min(1, Math.max(0, (moment - from) / (until - from)));
  const over = now >= until;
  const text = over
    ? `Certificate timeline: it expired ${ago(until, now)}.`
    : `Certificate timeline: ${Math.round(at(now) / 6)} % of its life is over, it ends ${ago(until, now)}` +
      (Number.isFinite(renewal) ? `, the next renewal is ${ago(renewal, now)}.` : ".");
  return h("svg", { class: over ? "cert over" : "cert", viewBox: "0 0 600 30", preserveAspectRatio: "none", role: "img", "aria-label": text, focusable: "false", "data-until": stamp(until) },
    h("rect", { class: "life", x: 0, y: 10, width: 600, height: 10 }),
    h("rect", { class: "spent", x: 0, y: 10, width: at(now).toFixed(1), height: 10 }),
    Number.isFinite(renewal) && h("line", { key: "renewal", class: "renewal", x1: at(renewal).toFixed(1), x2: at(renewal).toFixed(1), y1: 5, y2: 25 }),
    h("path", { class: "now", d: `M${at(now).toFixed(1)} 3v24` }));
}
