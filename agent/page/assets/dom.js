// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// The document as a function of the data: h describes elements, patch makes the
// document agree. What has not changed is not touched, so that focus, selection
// and opened details stay. Data only ever becomes text or the value of a listed
// attribute: names and paths come from strangers.

const SVG = "http://www.w3.org/2000/svg";
const described = new WeakMap();

const plain = new Set([
  "class", "id", "type", "name", "placeholder", "autocomplete", "spellcheck", "for", "role",
  "tabindex", "title", "scope", "datetime", "open", "hidden", "autocapitalize", "enterkeyhint", "maxlength",
  "viewBox", "preserveAspectRatio", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "rx", "d", "points",
  "text-anchor", "focusable",
]);

// h describes an element. attrs.key tells it from its siblings, attrs.on holds
// listeners, attrs.once what is set at its making only; false, null and ""
// children are nothing.
export function h(tag, attrs, ...children) {
  return { tag, attrs: attrs ?? {}, children };
}

// patch makes the children of parent those that are described.
export function patch(parent, children) {
  const wanted = list(children, "");
  const keys = new Set(wanted.map(([key]) => key));
  const old = new Map();
  for (const node of [...parent.childNodes]) {
    const key = described.get(node)?.key;
    if (key === undefined || !keys.has(key)) node.remove();
    else old.set(key, node);
  }
  let at = parent.firstChild;
  for (const [key, what] of wanted) {
    const node = old.get(key) ?? make(parent, key, what);
    update(node, what);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
}

// list is children with their keys: the place among siblings, unless named.
function list(children, prefix) {
  const out = [];
  children.forEach((child, i) => {
    if (child === null || child === undefined || child === false || child === "") return;
    if (Array.isArray(child)) out.push(...list(child, `${prefix}${i}.`));
    else if (typeof child === "object") out.push([`${prefix}${child.attrs.key ?? i}<${child.tag}`, child]);
    else out.push([`${prefix}${i}"`, String(child)]);
  });
  return out;
}

function make(parent, key, what) {
  if (typeof what === "string") {
    const text = document.createTextNode("");
    described.set(text, { key });
    return text;
  }
  const svg = what.tag === "svg" || parent.namespaceURI === SVG;
  const node = svg ? document.createElementNS(SVG, what.tag) : document.createElement(what.tag);
  described.set(node, { key, attrs: {}, on: {} });
  for (const [name, value] of Object.entries(what.attrs.once ?? {})) set(node, name, value);
  for (const name of Object.keys(what.attrs.on ?? {})) {
    node.addEventListener(name, (event) => described.get(node).on[name](event));
  }
  return node;
}

function update(node, what) {
  if (typeof what === "string") {
    if (node.data !== what) node.data = what;
    return;
  }
  const state = described.get(node);
  state.on = what.attrs.on ?? {};
  const { key, on, once, ...attrs } = what.attrs;
  for (const name of Object.keys(state.attrs)) {
    if (!(name in attrs)) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(attrs)) {
    if (state.attrs[name] !== value) set(node, name, value);
  }
  state.attrs = attrs;
  patch(node, what.children);
}

function set(node, name, value) {
  const known = plain.has(name) || /^(aria|data)-[a-z-]+$/.test(name) || (name === "href" && String(value).startsWith("#"));
  if (!known) throw new Error(`the page sets no attribute ${name}`);
  if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}
