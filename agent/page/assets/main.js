// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The page: it asks the agent every two seconds and draws what it says. When
// the agent is gone it keeps what it has, and says how old that is.

import { h, patch } from "./dom.js";
import { Source } from "./data.js";
import { History } from "./history.js";
import { edges } from "./edges.js";
import { Explain } from "./explain.js";
import { failures } from "./failures.js";
import { hits } from "./hits.js";
import { freshness, gone, hostHeader, navigation, problems } from "./host.js";
import { sidecar, sources } from "./sidecar.js";
import { unfolded } from "./unfold.js";

const interval = 2000;
const quiet = 10e3; // while nobody looks

const asked = { status: new Source("v1/status"), series: new Source("v1/series"), failures: new Source("v1/failures?limit=200") };
const seen = new Source("v1/edges");
const history = new History();
const explain = new Explain(() => draw());
let chosen = ""; // the service whose failures are shown
let placed = false; // whether the place that the address names has been shown

const part = (id) => document.getElementById(id);

function draw() {
  const status = asked.status.data;
  const now = Date.now() + asked.status.ahead;
  patch(part("news"), gone(asked.status));
  patch(part("host"), hostHeader(status, freshness(asked.status, Date.now()), now));
  patch(part("explain"), explain.view(submit));
  if (!status) return;
  const all = status.Sidecars ?? [];
  document.title = all.length ? `${all.map((s) => s.Service).join(", ").slice(0, 80)} · Outrider` : "Outrider";
  patch(part("nav"), [navigation(status, asked.failures.data?.Failures?.length)]);
  const view = {
    now, history, seriesMissing: missing(asked.series),
    series: (proxyID) => asked.series.data?.Services?.find((s) => s.ProxyID === proxyID),
    hits: (proxyID) => hits(asked.series.data, proxyID),
  };
  patch(part("main"), [
    problems(status, troubles(), now),
    all.length === 0 ? h("p", { key: "empty", class: "notice" }, "This agent has no sidecar: its configuration has no service yet.") : null,
    all.map((s) => sidecar(s, view)),
    failures(asked.failures, chosen, choose, now),
    edges(seen, now),
    sources(status, now),
  ]);
  if (!placed) {
    placed = true;
    follow();
  }
}

// troubles are what keeps parts of the page from being whole.
function troubles() {
  const out = [asked.series, asked.failures].filter((source) => source.error && !source.absent && !asked.status.error)
    .map((source) => ({ where: source.path, what: source.error }));
  if (asked.series.data?.Problem) out.push({ where: asked.series.path, what: asked.series.data.Problem });
  return out;
}

function missing(source) {
  if (source.data) return "";
  return source.absent ? "This agent counts nothing." : source.error ? `The counts cannot be read: ${source.error}.` : "Asking for the counts.";
}

function choose(service) {
  chosen = service;
  draw();
}

// looking reports whether somebody looks at the calls seen.
function looking() {
  return part("seen")?.querySelector("details").open ?? false;
}

const question = "#explain=";

function submit(text) {
  const address = question + encodeURIComponent(text);
  if (location.hash === address) explain.run(text);
  else location.hash = address;
}

// follow does what the address of the page says: it explains, or shows a place.
function follow() {
  if (location.hash.startsWith(question)) {
    const text = decoded(location.hash.slice(question.length));
    const input = part("call");
    if (input) input.value = text;
    explain.run(text);
    return;
  }
  const place = location.hash.length > 1 ? part(decoded(location.hash.slice(1))) : null;
  place?.scrollIntoView();
  place?.focus({ preventScroll: true });
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function poll() {
  const due = Object.values(asked).filter((source) => !source.absent || Date.now() - source.at > quiet);
  if (looking()) due.push(seen);
  await Promise.all(due.map((source) => source.load()));
  if (asked.series.data && !asked.series.error) history.add(asked.series.data, asked.series.at);
  draw();
}

// turns asks again and again, one question at a time.
let timer = 0;
let polling = false;

async function turns() {
  if (polling) return;
  polling = true;
  clearTimeout(timer);
  try {
    await poll();
  } finally {
    polling = false;
    timer = setTimeout(turns, document.hidden ? quiet : interval);
  }
}

addEventListener("hashchange", follow);
document.addEventListener(unfolded, () => {
  draw();
  if (looking() && !seen.data) seen.load().then(draw);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) turns();
});
draw();
turns();
