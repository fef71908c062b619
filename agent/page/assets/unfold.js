// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Details that are made only while they are unfolded: a host may have many.

import { h } from "./dom.js";

const chosen = new Map();

// unfolded is what happens to the document when somebody unfolds or folds.
export const unfolded = "outrider-unfolded";

// unfold has an id of its own, and is unfolded at first when open says so. body
// makes what is inside.
export function unfold(id, open, attrs, summary, body) {
  const shown = chosen.get(id) ?? open;
  const toggle = (event) => {
    if (event.target.open === (chosen.get(id) ?? open)) return;
    if (chosen.size > 2000) chosen.clear();
    chosen.set(id, event.target.open);
    document.dispatchEvent(new Event(unfolded));
  };
  return h("details", { ...attrs, once: { open: shown }, on: { toggle } }, h("summary", null, ...summary), shown ? body() : null);
}
