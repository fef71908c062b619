// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Questions to the agent that served this page, and to nobody else.

const patience = 5000;
// biggest is what the page is willing to hold of one answer, in characters.
const biggest = 32 << 20;

// A Source is one resource of the admin API. data is the last good answer, at
// the browser's time of it (NaN: never), error why the last question failed
// ("": it did not), absent that this agent does not have the resource, as it said
// at that time.
export class Source {
  constructor(path) {
    this.path = path;
    this.data = null;
    this.at = NaN;
    this.error = "";
    this.absent = false;
    this.ahead = 0;
  }

  async load() {
    try {
      const { body, ahead } = await ask(this.path);
      this.data = body;
      this.ahead = ahead;
      this.at = Date.now();
      this.error = "";
      this.absent = false;
    } catch (err) {
      this.error = err.message;
      this.absent = err.status === 404;
      if (this.absent) this.at = Date.now();
    }
  }
}

// ask gets JSON. ahead is by how much the agent's clock is before the browser's,
// in milliseconds: the two may be different machines, and certificates are valid
// by the agent's.
export async function ask(path) {
  let answer;
  let text;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(patience) });
    text = await answer.text();
  } catch (err) {
    throw new Error(err.name === "TimeoutError" ? "no answer within 5 s" : "no connection");
  }
  if (!answer.ok) {
    const err = new Error(text.trim().slice(0, 500) || `status ${answer.status}`);
    err.status = answer.status;
    throw err;
  }
  if (text.length > biggest) throw new Error("the answer is too long for this page");
  const ahead = Date.parse(answer.headers.get("Date") ?? "") + 500 - Date.now();
  return { body: decode(text), ahead: Math.abs(ahead) > 2000 ? ahead : 0 };
}

function decode(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("the answer is no JSON");
  }
}
