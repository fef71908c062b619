// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// How often each intention decided.

// hits of the sidecar: at(place, intention) and otherwise are {Allowed, Denied}
// of one intention and of the default policy; null when nothing is known.
export function hits(series, proxyID) {
  const counted = series?.Services?.find((s) => s.ProxyID === proxyID)?.Intentions;
  if (!counted) return null;
  const byName = new Map(counted.map((hit) => [hit.Name, hit]));
  const none = { Allowed: 0, Denied: 0 };
  return {
    at: (place, intention) => byName.get(`${intention.Source} → ${intention.Target}`) ?? none,
    otherwise: byName.get("default policy") ?? none,
  };
}
