// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Five minutes of points, made here from the cumulative counts of the agent.
// Each point is about the ten seconds before it, so that one slow request of a
// quiet service is seen for more than a blink.

export const kept = 5 * 60e3;
const width = 10e3;

export class History {
  #lines = new Map();
  #seen = 0;

  // add takes one answer of /v1/series; now is its time in milliseconds.
  add(series, now) {
    this.#seen = now;
    for (const service of series.Services ?? []) {
      for (const side of ["Sources", "Upstreams"]) {
        for (const line of service[side] ?? []) this.#count(id(service.ProxyID, side, line.Name), line, now);
      }
    }
    for (const [name, line] of this.#lines) {
      if (now - line.counts.at(-1).at > kept) this.#lines.delete(name);
    }
  }

  #count(name, line, now) {
    let known = this.#lines.get(name);
    const last = known?.counts.at(-1);
    // Counts that fall are those of an agent that began anew.
    if (!known || line.Calls < last.calls || now < last.at) {
      known = { counts: [], points: [] };
      this.#lines.set(name, known);
    }
    const failed = Object.values(line.Failed ?? {}).reduce((sum, n) => sum + n, 0);
    known.counts.push({ at: now, calls: line.Calls, failed, buckets: line.Buckets ?? [] });
    const at = Math.max(0, known.counts.findLastIndex((c) => c.at <= now - width + 500));
    known.counts.splice(0, at);
    const from = known.counts[0];
    if (from.at < now) known.points.push(point(from, known.counts.at(-1)));
    known.points = known.points.filter((p) => p.at > now - kept);
  }

  // points are those of one line, oldest first.
  points(proxyID, side, name) {
    return this.#lines.get(id(proxyID, side, name))?.points ?? [];
  }

  // end is the time at the right edge of all plots.
  get end() {
    return this.#seen;
  }
}

function id(proxyID, side, name) {
  return JSON.stringify([proxyID, side, name]);
}

function point(from, to) {
  const calls = to.calls - from.calls;
  const failed = Math.max(0, to.failed - from.failed);
  const before = new Map(from.buckets.map((b) => [b.Le, b.Count]));
  const buckets = to.buckets.map((b) => ({ le: b.Le, count: b.Count - (before.get(b.Le) ?? 0) }));
  return {
    at: to.at,
    rate: calls / ((to.at - from.at) / 1000),
    good: calls > 0 ? Math.max(0, 1 - failed / calls) : NaN,
    p50: quantile(0.5, buckets),
    p99: quantile(0.99, buckets),
  };
}

// quantile is in milliseconds, interpolated inside of the bucket in which it
// lies; beyond the last bound it is that bound. NaN when nothing was counted.
// Bounds are in seconds, counts cumulative.
export function quantile(q, buckets) {
  const total = buckets.at(-1)?.count ?? 0;
  if (total <= 0) return NaN;
  const rank = q * total;
  let below = 0;
  let start = 0;
  for (const { le, count } of buckets) {
    if (count >= rank) {
      if (le === null) return start * 1000;
      return (start + ((le - start) * (rank - below)) / Math.max(count - below, 1e-9)) * 1000;
    }
    below = count;
    start = le;
  }
  return start * 1000;
}
