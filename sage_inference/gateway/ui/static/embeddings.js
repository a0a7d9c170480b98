// The merging of embedding requests into calls.

import { Chart, History } from "./charts.js";
import { Table, card, definitions, el } from "./dom.js";
import { bytes, count, ms, rate, short } from "./format.js";

// Texts that engines were asked for.
const sent = (counts) => counts.texts - counts.shared_texts - counts.cached_texts;

export class EmbeddingsView {
  constructor() {
    this.history = new History();
    this.charts = [
      new Chart("Merging a second", this.history, [["requests", "requests", "--accent", { fill: true }], ["calls", "calls to engines", "--ok"]], rate),
      new Chart("Texts a call", this.history, [["perCall", "mean", "--accent", { span: true }]], rate),
    ];
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
      el("div", { class: "halves" }, this.charts.map((chart) => chart.node)),
      el("div", { class: "halves" }, card("Since the start", this.totals.node), card("Rules", this.rules.node)),
      el("section", { class: "card flush" }, el("h2", {}, "Calls by engine"), this.windows.node));
  }

  // Called for each document, also while another view is open.
  remember({ at_ms, embeddings: now }) {
    const before = this.before;
    this.before = { ...now, at_ms };
    if (!before || at_ms <= before.at_ms || now.calls < before.calls) return;
    const seconds = (at_ms - before.at_ms) / 1000, calls = now.calls - before.calls;
    const values = { requests: (now.requests - before.requests) / seconds, calls: calls / seconds };
    if (calls) values.perCall = (sent(now) - sent(before)) / calls;
    this.history.add(at_ms / 1000, values);
  }

  opened() { for (const chart of this.charts) chart.draw(); }

  restyle() { for (const chart of this.charts) chart.restyle(); }

  show({ embeddings: e }) {
    for (const chart of this.charts) chart.draw();
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
