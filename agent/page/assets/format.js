// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Numbers, times and names as people read them. All times are in milliseconds.

const units = [["d", 86400e3], ["h", 3600e3], ["min", 60e3], ["s", 1e3]];

// span is a length of time: "3 d 4 h", "12 min", "34 s".
export function span(ms) {
  if (!Number.isFinite(ms)) return "unknown";
  const size = Math.abs(ms);
  for (const [i, [unit, length]] of units.entries()) {
    if (size < length) continue;
    const whole = Math.floor(size / length);
    const next = units[i + 1];
    const rest = next && whole < 10 ? Math.floor((size % length) / next[1]) : 0;
    return rest ? `${whole} ${unit} ${rest} ${next[0]}` : `${whole} ${unit}`;
  }
  return "0 s";
}

// ago is a moment relative to now: "34 s ago", "in 3 h".
export function ago(moment, now) {
  const ms = now - moment;
  if (!Number.isFinite(ms)) return "never";
  return ms < -1000 ? `in ${span(ms)}` : ms < 1000 ? "now" : `${span(ms)} ago`;
}

// when is a time of the agent's JSON in milliseconds; NaN for its zero time.
export function when(text) {
  const ms = Date.parse(text ?? "");
  return ms > 0 ? ms : NaN;
}

// stamp is a moment in UTC, to the second.
export function stamp(ms) {
  return Number.isFinite(ms) ? new Date(ms).toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC") : "unknown";
}

// latency is a short length of time: "850 µs", "12 ms", "1.5 s".
export function latency(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  return ms >= 1 || ms === 0 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
}

function short(n) {
  return n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1).replace(/\.0$/, "") : n.toFixed(2).replace(/\.?0+$/, "");
}

export function count(n) {
  return Number.isFinite(n) ? n.toLocaleString("en") : "–";
}

export function rate(perSecond) {
  return Number.isFinite(perSecond) ? `${short(perSecond)}/s` : "–";
}

// share is a part of the whole in per cent. All is 100, and nothing less is.
export function share(part) {
  if (!Number.isFinite(part)) return "–";
  if (part === 1 || part === 0) return `${part * 100} %`;
  return `${Math.min(99.99, part * 100).toFixed(part >= 0.999 ? 2 : 1)} %`;
}

export function bytes(n) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < names.length - 1; i++) n /= 1024;
  return `${i ? short(n) : n} ${names[i]}`;
}

export function plural(n, one, more = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : more}`;
}
