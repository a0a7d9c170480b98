// Elements and tables. Text from outside only ever becomes text: nothing here parses markup.

export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "disabled" || key === "hidden") node[key] = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export function text(node, value) {
  const shown = value == null ? "" : String(value);
  if (node.textContent !== shown) node.textContent = shown;
}

export function attribute(node, name, value) {
  if (value == null || value === false) { if (node.hasAttribute(name)) node.removeAttribute(name); return; }
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// A table whose rows keep their elements, so that focus and selection survive an update.
// A column is {head, class, text(row)} or {head, class, make(cell), update(parts, row)}. A click on a row calls `open`,
// for which a button in the row must stand as well.
export class Table {
  constructor(caption, columns, { empty = "nothing yet", keyOf = (row) => row.name, open } = {}) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.open = open;
    this.rows = new Map();
    this.body = el("tbody");
    this.emptyCell = el("td", { colspan: columns.length, class: "empty" }, empty);
    this.empty = el("tr", { class: "empty-row" }, this.emptyCell);
    const heads = this.heads = columns.map((each) => el("th", { scope: "col", class: each.class }, each.head));
    this.table = el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, el("tr", {}, heads)), this.body);
    this.node = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, this.table);
  }

  show(rows) {
    const kept = new Set();
    let before = this.body.firstChild;
    for (const row of rows) {
      const key = this.keyOf(row);
      if (kept.has(key)) continue;
      kept.add(key);
      let held = this.rows.get(key);
      if (!held) { held = this.makeRow(); this.rows.set(key, held); }
      for (const [place, column] of this.columns.entries()) {
        if (column.update) column.update(held.parts[place], row);
        else {
          const cell = held.node.children[place], shown = column.text(row);
          text(cell, shown);
          if (column.class?.startsWith("names")) attribute(cell, "title", shown); // it may be cut
        }
      }
      held.row = row;
      if (held.node !== before) this.body.insertBefore(held.node, before);
      else before = before.nextSibling;
    }
    for (const [key, held] of this.rows) if (!kept.has(key)) { held.node.remove(); this.rows.delete(key); }
    if (!kept.size) this.body.append(this.empty); else this.empty.remove();
  }

  rename(place, head) { text(this.heads[place], head); }

  makeRow() {
    const parts = [];
    const cells = this.columns.map((column) => {
      const cell = el("td", { class: column.class, "data-head": column.head });
      parts.push(column.make ? column.make(cell) : null);
      return cell;
    });
    const held = { node: el("tr", { class: this.open && "opens" }, cells), parts };
    if (this.open) held.node.addEventListener("click", (event) => {
      if (!event.target.closest("button") && getSelection().isCollapsed) this.open(held.row);
    });
    return held;
  }
}

export function card(title, ...children) {
  return el("section", { class: "card" }, el("h2", {}, title), ...children);
}

// A bar of a share from 0 to 1. Its width comes from one of 21 classes, because the policy allows no inline style.
// With `limit`, a full one is marked.
export function bar(label, { limit = false } = {}) {
  const fill = el("span", { class: "fill w0" });
  const node = el("span", { class: "bar", role: "img", "aria-label": label }, fill);
  return { node, set(share, words) {
    const step = Math.round(Math.min(1, Math.max(0, share || 0)) * 20) * 5;
    fill.className = `fill w${step}${limit && share >= 0.95 ? " full" : ""}`;
    attribute(node, "aria-label", words);
  } };
}

export function definitions(pairs) {
  const values = {};
  const node = el("dl", { class: "figures" }, pairs.map(([key, label]) => {
    const value = el("span", {}, "–"), note = el("small", {});
    values[key] = { value, note };
    return el("div", {}, el("dt", {}, label), el("dd", {}, value, note));
  }));
  return { node, set(key, value, note) { text(values[key].value, value ?? "–"); text(values[key].note, note); } };
}
