// The queue, by priority, tenant and model.

import { Table, bar, card, definitions, el, text } from "./dom.js";
import { bytes, count, ms } from "./format.js";

const PRIORITIES = ["critical", "high", "normal", "low", "background"];

const shares = (head, name) => [
  { head, class: "lead names", text: name },
  { head: "Waiting", class: "number", text: (row) => count(row.requests) },
  { head: "Share", class: "share", make: (cell) => { const made = bar("share"); cell.append(made.node); return made; },
    update: (made, row) => made.set(row.share, `${Math.round(row.share * 100)} % of what waits`) },
];

export class QueueView {
  constructor() {
    this.figures = definitions([
      ["requests", "Waiting for a slot"], ["held", "Waiting for an engine to start"], ["oldest", "The oldest waits"],
      ["overdue", "Beyond their deadline"], ["bytes", "Memory"],
    ]);
    this.priorities = new Table("Queue by priority", shares("Priority", (row) => row.name));
    const names = { keyOf: (row) => row.name, empty: "nothing waits" };
    this.tenants = new Table("Queue by key", shares("Key", (row) => row.name || "no key"), names);
    this.models = new Table("Queue by model", shares("Model", (row) => row.name), names);
    this.instances = new Table("Queue by engine", [
      { head: "Engine", class: "lead", text: (row) => row.name },
      { head: "Waiting", class: "number", text: (row) => count(row.queued) },
      { head: "In flight", class: "number", text: (row) => `${count(row.in_flight)}${row.limit ? ` / ${row.limit}` : ""}` },
      { head: "Prompt backlog", class: "number", text: (row) => `${count(row.pending_tokens)}${row.window_tokens ? ` / ${count(row.window_tokens)}` : ""}` },
    ]);
    this.node = el("div", { class: "stack" }, card("Queue", this.figures.node),
      el("div", { class: "halves" },
        el("section", { class: "card flush" }, el("h2", {}, "By priority"), this.priorities.node),
        el("section", { class: "card flush" }, el("h2", {}, "By key"), this.tenants.node),
        el("section", { class: "card flush" }, el("h2", {}, "By model"), this.models.node),
        el("section", { class: "card flush" }, el("h2", {}, "By engine"), this.instances.node)));
  }

  show({ queue, instances }) {
    const { figures } = this;
    figures.set("requests", `${count(queue.requests)} of at most ${count(queue.limit)}`);
    figures.set("held", count(queue.held));
    figures.set("oldest", queue.requests ? ms(queue.oldest_ms) : "–");
    figures.set("overdue", count(queue.overdue));
    figures.set("bytes", `${bytes(queue.bytes)} of ${bytes(queue.bytes_limit)}`);
    const all = Math.max(1, queue.requests);
    const row = (name, requests) => ({ name, requests, share: requests / all });
    this.priorities.show(PRIORITIES.map((name) => row(name, queue.by_priority[name] ?? 0)));
    this.tenants.show(queue.by_tenant.map((each) => row(each.tenant, each.requests)));
    this.models.show(queue.by_model.map((each) => row(each.model, each.requests)));
    this.instances.show(instances);
  }
}
