// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The question "what becomes of this call, and why", put to the agent.

import { h } from "./dom.js";
import { ask } from "./data.js";
import { code, mark, table } from "./table.js";
import { chain } from "./explain_steps.js";

export class Explain {
  #redraw;
  #latest = 0;

  constructor(redraw) {
    this.#redraw = redraw;
    this.text = "";
    this.busy = false;
    this.answer = null;
    this.error = "";
  }

  // run asks about a call, as "web api GET /admin".
  async run(text) {
    const turn = ++this.#latest;
    this.text = text;
    this.answer = null;
    this.error = "";
    const [source, destination, method, ...path] = text.trim().split(/\s+/);
    if (!source || !destination || path.length > 1 || (method && path.length === 0)) {
      this.error = "Write source and destination, and for HTTP a method and a path: web api GET /admin";
      this.#redraw();
      return;
    }
    this.busy = true;
    this.#redraw();
    const query = new URLSearchParams({ source, destination });
    if (method) {
      query.set("method", method.toUpperCase());
      query.set("path", path[0]);
    }
    let answer = null;
    let error = "";
    try {
      answer = (await ask(`v1/explain?${query}`)).body;
    } catch (err) {
      error = err.status === 404 ? "This agent does not explain calls." : `The agent cannot explain it: ${err.message}.`;
    }
    if (turn !== this.#latest) return;
    Object.assign(this, { busy: false, answer, error });
    this.#redraw();
  }

  // view is the search box and below it the answer. submit is given the text.
  view(submit) {
    return [
      h("form", { on: { submit: (event) => {
        event.preventDefault();
        submit(new FormData(event.target).get("call"));
      } } },
        h("label", { for: "call" }, "Explain a call"),
        h("input", { id: "call", name: "call", type: "search", placeholder: "web api GET /admin", maxlength: 2000,
          autocomplete: "off", spellcheck: "false", autocapitalize: "none", enterkeyhint: "go", "aria-describedby": "call-form" }),
        h("button", { type: "submit" }, "Explain"),
        h("p", { id: "call-form", class: "muted" }, "Source, destination, and for HTTP a method and a path.")),
      h("div", { id: "answer", "aria-live": "polite", "aria-busy": String(this.busy) },
        this.busy && h("p", { key: "busy", class: "muted" }, "Asking."),
        this.error && h("p", { key: "error", class: "notice bad" }, this.error),
        this.answer && h("p", { key: "verdict", class: "verdict" }, ...verdict(this.answer))),
      this.answer && h("div", { key: `steps ${this.#latest}`, class: "explanation" }, steps(this.answer)),
    ];
  }
}

const whole = 10000;

function verdict(e) {
  const v = e.Verdict ?? {};
  const call = `${e.Source} → ${e.Destination}${e.Method ? ` ${e.Method} ${e.Path}` : ""}`;
  const word = v.Observed ? mark("warn", "failed lately") : v.Served === whole ? mark("good", "served")
    : v.Served ? mark("warn", `${v.Served / 100} % served`) : v.Unknown ? mark("warn", "not known here") : mark("bad", "not served");
  return [word, " ", h("b", null, call), v.Reason ? [" ", code(v.Reason)] : "", v.Why ? `: ${v.Why}` : ""];
}

function steps(e) {
  const outcomes = e.Verdict?.Outcomes ?? [];
  return [
    h("ol", { class: "steps" }, chain(e).map((step, i) => h("li", { key: i, class: step.kind ?? null }, h("h3", null, step.title), step.body))),
    outcomes.length > 1 && table("What becomes of the requests", [
      { name: "Share", num: true, of: (o) => `${o.Share / 100} %` },
      { name: "Target", of: (o) => (o.Target ? code(o.Target) : "–") },
      { name: "Outcome", of: (o) => (o.Reason ? mark("bad", o.Reason) : o.Unknown ? mark("warn", "not known here") : mark("good", "served")) },
      { name: "Why", of: (o) => o.Why || "–" },
    ], outcomes, (o, i) => i),
    settings(e),
  ];
}

function settings(e) {
  const all = [e.Outbound, ...(e.Inbound ?? [])].flatMap((side) => (side?.Settings ?? []).map((s) => ({ ...s, side: side.Service })));
  return all.length > 0 && h("details", { key: "settings" }, h("summary", null, "Timeouts, retries and limits in force"),
    table("Settings and where they come from", [
      { name: "Sidecar of", of: (s) => s.side }, { name: "Setting", of: (s) => s.Name },
      { name: "Value", of: (s) => s.Value }, { name: "Origin", of: (s) => s.Origin },
    ], all, (s, i) => i));
}

