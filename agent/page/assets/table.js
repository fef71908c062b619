// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Tables that become lists of labelled values on narrow screens, and lists of
// facts. The roles are written out, since the narrow form would lose them.

import { h } from "./dom.js";

// table has columns of {name, of(row), num, wide}; keyOf tells rows apart.
export function table(caption, columns, rows, keyOf) {
  return h("table", { role: "table" },
    h("caption", null, caption),
    h("thead", { role: "rowgroup" },
      h("tr", { role: "row" }, columns.map((c) => h("th", { scope: "col", role: "columnheader", class: c.num ? "num" : c.wide ? "wide" : null }, c.name)))),
    h("tbody", { role: "rowgroup" }, rows.map((row, i) =>
      h("tr", { key: keyOf(row, i), role: "row", class: row.class ?? null }, columns.map((c) =>
        h("td", { role: "cell", "data-label": c.name, class: c.num ? "num" : null }, h("span", null, c.of(row, i))))))));
}

// facts is a list of [name, value, wide]; those without a value are left out.
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
    .map(([name, value, wide]) => h("div", { key: name, class: wide ? "wide" : null }, h("dt", null, name), h("dd", null, value))));
}

// mark is a word on a ground that says good, warn or bad besides the word.
export function mark(kind, text) {
  return h("span", { class: `mark ${kind}` }, text);
}

export function code(text) {
  return h("code", null, text);
}
