// The merging of embedding requests into calls.

import { Table, card, definitions, el } from "./dom.js";
import { bytes, count, ms, short } from "./format.js";

export class EmbeddingsView {
  constructor() {
    this.figures = definitions([
      ["perCall", "Texts a call"], ["factor", "Requests a call"], ["wait", "Mean wait of a text"], ["inFlight", "Requests in flight"], ["waiting", "Texts waiting"],
    ]);
    this.totals = definitions([
      ["requests", "Requests"], ["texts", "Texts"], ["calls", "Calls to engines"], ["shared", "Texts shared"], ["cached", "Texts from the cache"],
      ["splits", "Calls split"], ["retries", "Calls repeated"], ["cache", "Cache"],
    ]);
    this.rules = definitions([["batching", "Merging"], ["size", "Texts in a call, at most"], ["least", "Texts in a call, at least"], ["longest", "Longest wait"]]);
    this.windows = new Table("Calls by engine", [
      { head: "Engine", class: "lead", text: (row) => row.instance },
      { head: "Calls in flight", class: "number", text: (row) => count(row.calls_in_flight) },
      { head: "Bulk calls", class: "number", text: (row) => `${count(row.bulk_calls_in_flight)} / ${count(row.bulk_calls_allowed)}` },
      { head: "Tokens/s", class: "number", text: (row) => short(row.tokens_per_s) },
    ], { keyOf: (row) => row.instance, empty: "no engine serves embeddings" });
    this.node = el("div", { class: "stack" }, card("Merging", this.figures.node),
      el("div", { class: "halves" }, card("Since the start", this.totals.node), card("Rules", this.rules.node)),
      el("section", { class: "card flush" }, el("h2", {}, "Calls by engine"), this.windows.node));
  }

  show({ embeddings: e }) {
    const { figures, totals, rules } = this;
    figures.set("perCall", e.calls ? short(e.texts_per_call) : "–");
    figures.set("factor", e.calls ? short(e.merge_factor) : "–");
    figures.set("wait", ms(e.mean_wait_ms));
    figures.set("inFlight", count(e.in_flight));
    figures.set("waiting", count(e.waiting_texts));
    totals.set("requests", count(e.requests));
    totals.set("texts", count(e.texts));
    totals.set("calls", count(e.calls));
    totals.set("shared", count(e.shared_texts));
    totals.set("cached", count(e.cached_texts));
    totals.set("splits", count(e.splits));
    totals.set("retries", count(e.retries));
    totals.set("cache", bytes(e.cache_bytes));
    rules.set("batching", e.rules.batching ? "on" : "off");
    rules.set("size", count(e.rules.batch_size));
    rules.set("least", count(e.rules.min_batch_size));
    rules.set("longest", ms(e.rules.max_wait_ms));
    this.windows.show(e.windows);
  }
}
