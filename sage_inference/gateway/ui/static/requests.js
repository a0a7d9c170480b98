// Requests as they happen, and the explanation of one.

import { Table, attribute, bar, card, definitions, el, text } from "./dom.js";
import { clock, count, ms, rate } from "./format.js";
import { Refused, call } from "./gateway.js";

const KEPT = 500, SHOWN = 150, SHOWN_NARROW = 40;
export const keyOf = (row) => `${row.request_id} ${row.instance} ${row.arrived_ms}`;

export class RequestsView {
  constructor(page) {
    this.page = page;
    this.rows = new Map(); // ended ones by key, oldest first
    this.paused = false;
    this.table = requestTable("Requests, newest first", page);
    this.filter = el("input", { type: "search", id: "filter", placeholder: "model, key, instance, route, status…", oninput: () => this.render() });
    this.pause = el("button", { type: "button", class: "small", "aria-pressed": "false", onclick: () => {
      this.paused = !this.paused;
      attribute(this.pause, "aria-pressed", this.paused ? "true" : "false");
      text(this.pause, this.paused ? "Go on" : "Pause");
      if (!this.paused) this.render();
    } }, "Pause");
    this.said = el("small", {});
    this.node = el("section", { class: "card flush" },
      el("div", { class: "bar-row" }, el("h2", {}, "Requests"), this.said, el("div", { class: "spacer" }),
        el("label", { for: "filter", class: "unseen" }, "Show only requests with this text"), this.filter, this.pause),
      this.table.node);
    this.dialog = document.getElementById("dialog");
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  add(row) {
    const key = keyOf(row);
    this.rows.delete(key);
    this.last = Math.max(this.last ?? 0, row.number);
    this.rows.set(key, row);
    if (this.rows.size > KEPT) this.rows.delete(this.rows.keys().next().value);
  }

  // Requests that ended while no stream was open.
  async catchUp() {
    try {
      const { requests } = await call("GET", `admin/requests?limit=${SHOWN}${this.last === undefined ? "" : `&after=${this.last}`}`);
      const newer = [...this.rows.values()].filter((row) => row.number > (requests.at(-1)?.number ?? -1));
      for (const row of [...requests, ...newer]) this.add(row);
      this.render();
    } catch { /* the stream reports that the gateway is gone */ }
  }

  show(state) { this.state = state; if (!this.paused) this.render(); }

  render() {
    const { state } = this;
    if (!state) return;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = this.newest(state);
    const found = words.length ? all.filter((row) => matches(row, words)) : all;
    this.table.show(found.slice(0, innerWidth < 640 ? SHOWN_NARROW : SHOWN));
    text(this.said, `${count(state.requests.in_flight)} running, ${rate(state.rates.requests_per_s)} a second`);
  }

  // The rows that run, and then those that ended, newest first.
  newest(state) {
    const running = state.running.filter((row) => !this.rows.has(keyOf(row))).reverse();
    return [...running, ...[...this.rows.values()].reverse()];
  }

  async explain(id) {
    const refused = [...this.rows.values()].find((row) => row.request_id === id && row.outcome === "refused");
    if (refused) { this.open(id, [refusal(refused)]); return; }
    await this.page.act("", async () => {
      let found;
      try { found = await call("GET", `admin/decisions/${encodeURIComponent(id)}`); } catch (error) {
        if (error instanceof Refused && error.status === 404) { this.page.notice(error.message, "warn"); return; }
        throw error;
      }
      this.open(id, found.attempts.map((attempt, place) => explanation(attempt, place, found.attempts.length)));
    });
  }

  open(id, cards) {
    this.dialog.replaceChildren(
      el("div", { class: "bar-row" }, el("h2", { id: "dialog-title" }, `Request ${id}`), el("div", { class: "spacer" }),
        el("button", { type: "button", class: "small", onclick: () => this.dialog.close() }, "Close")),
      ...cards);
    if (!this.dialog.open) this.dialog.showModal();
  }
}

// A table of requests. A click on a row, or on its time, explains the request.
export function requestTable(caption, page) {
  return new Table(caption, requestColumns(page), {
    keyOf, empty: "no requests yet; the playground makes one", open: (row) => page.explain(row.request_id),
  });
}

// The status comes early: with long names, the last columns are out of sight until the table is scrolled.
function requestColumns(page) {
return [
    { head: "Time", class: "lead", make: (cell) => {
      const parts = { id: "" };
      parts.button = el("button", { type: "button", class: "link", onclick: () => page.explain(parts.id) });
      cell.append(parts.button);
      return parts;
    }, update(parts, row) {
      parts.id = row.request_id;
      text(parts.button, clock(row.arrived_ms));
      attribute(parts.button, "aria-label", `${clock(row.arrived_ms)}: explain ${row.request_id}`);
      attribute(parts.button, "title", row.request_id);
    } },
    { head: "Status", class: "state", make: (cell) => { const pill = el("span", { class: "pill" }); cell.append(pill); return pill; }, update(pill, row) {
      const [word, tone] = verdict(row);
      text(pill, word);
      attribute(pill, "data-tone", tone);
    } },
    { head: "Route", class: "names route", text: (row) => row.route },
    { head: "Model", class: "names model", text: (row) => row.model || "–" },
    { head: "Key", class: "names", text: (row) => row.tenant || "–" },
    { head: "Instance", class: "names", text: (row) => (row.instance || "–") + (row.leg ? ` (${row.leg})` : "") },
    { head: "Why", class: "names why", make: (cell) => cell, update: (cell, row) => { text(cell, row.why); attribute(cell, "title", row.why); } },
    { head: "Queue", class: "number", text: (row) => ms(row.queue_ms) },
    { head: "TTFT", class: "number", text: (row) => ms(row.ttft_ms) },
    { head: "Tokens", class: "number", text: tokensOf },
    { head: "Tokens/s", class: "number pace", text: (row) => rate(row.tokens_per_s) },
    { head: "Total", class: "number", text: (row) => ms(row.total_ms ?? page.state.at_ms - row.arrived_ms) },
  ];
}

function matches(row, words) {
  const shown = `${row.request_id} ${row.route} ${row.model} ${row.tenant} ${row.instance} ${row.why} ${verdict(row)[0]} ${row.priority}`.toLowerCase();
  return words.every((word) => shown.includes(word));
}

// "~": counted by the gateway, because the engine reported none.
function tokensOf(row) {
  if (row.outcome === "refused") return "–";
  const prompt = `${row.tokens_estimated ? "~" : ""}${count(row.prompt_tokens)}`;
  return row.completion_tokens || row.streams ? `${prompt} → ${count(row.completion_tokens)}` : prompt;
}

export function verdict(row) {
  if (row.outcome === null) return ["running", "idle"];
  if (row.outcome === "done" || row.outcome === "ended" || row.outcome === "prefilled") {
    const status = row.status ?? 0;
    return [row.outcome === "prefilled" ? "prefilled" : String(status || "done"), status >= 500 ? "bad" : status >= 400 ? "warn" : "ok"];
  }
  if (row.outcome === "refused") return [`${row.status} refused`, "bad"];
  return [row.outcome, row.outcome === "cancelled" || row.outcome === "retried" ? "warn" : "bad"];
}

function refusal(row) {
  const facts = definitions([["route", "Route"], ["model", "Model"], ["tenant", "Key"], ["status", "Status"], ["waited", "Waited"]]);
  facts.set("route", row.route);
  facts.set("model", row.model || "–");
  facts.set("tenant", row.tenant || "–");
  facts.set("status", String(row.status));
  facts.set("waited", ms(row.total_ms));
  return card("Refused before any engine was asked", el("p", {}, `Why: ${row.why}`), facts.node);
}

const CANDIDATES = [
  { head: "Instance", class: "lead", make: (cell) => cell, update(cell, row) { text(cell, row.instance + (row.chosen ? " ✓ chosen" : "")); attribute(cell, "data-chosen", row.chosen); } },
  { head: "Cost", make: (cell) => { const parts = { words: el("span"), bar: bar("cost") }; cell.append(parts.words, parts.bar.node); return parts; },
    update(parts, row) { text(parts.words, ms(row.cost_ms)); parts.bar.set(row.share, `cost ${ms(row.cost_ms)}`); } },
  { head: "Backlog", class: "number", text: (row) => ms(row.backlog_ms) },
  { head: "Prompt", class: "number", text: (row) => ms(row.prompt_ms) },
  { head: "Cached", class: "number", text: (row) => count(row.cached_tokens) },
  { head: "Running", class: "number", text: (row) => count(row.running) },
];

function explanation(attempt, place, attempts) {
  const most = Math.max(1e-9, ...attempt.candidates.map((each) => each.cost_ms));
  const table = new Table("Candidates", CANDIDATES, { keyOf: (row) => row.instance, empty: "no candidates were compared" });
  table.show(attempt.candidates.map((each) => ({ ...each, share: each.cost_ms / most })));
  const facts = definitions([
    ["route", "Route"], ["model", "Model"], ["tenant", "Key"], ["priority", "Priority"], ["policy", "Policy"], ["slo", "SLO"], ["tokens", "Tokens"], ["outcome", "Outcome"],
  ]);
  const priority = ["critical", "high", "normal", "low", "background"][attempt.priority];
  facts.set("route", attempt.route);
  facts.set("model", attempt.model || "–");
  facts.set("tenant", attempt.key || "–");
  facts.set("priority", priority);
  facts.set("policy", attempt.policy ?? "–");
  facts.set("slo", `first token in ${ms(attempt.slo.ttft_ms)}, then ${ms(attempt.slo.tpot_ms)} a token`);
  facts.set("tokens", `${attempt.prompt_tokens_estimated ? "about " : ""}${count(attempt.prompt_tokens)} → ${count(attempt.completion_tokens)}${attempt.cached_tokens == null ? "" : `, ${count(attempt.cached_tokens)} cached`}`);
  facts.set("outcome", attempt.outcome == null ? "still running" : `${attempt.outcome}${attempt.status ? ` (status ${attempt.status})` : ""}`);
  const title = `${attempts > 1 ? `Attempt ${place + 1} of ${attempts}: ` : ""}${attempt.instance}`;
  return card(title,
    el("p", {}, `Why: ${attempt.reason}`),
    el("ol", { class: "steps" },
      step("Waited", ms(attempt.waited_ms)),
      step("First byte", ms(attempt.first_byte_ms), attempt.predicted_first_byte_ms == null ? "no prediction" : `predicted ${ms(attempt.predicted_first_byte_ms)}`),
      step("Whole answer", ms(attempt.duration_ms), "after it was sent")),
    facts.node, table.node);
}

const step = (name, value, note) => el("li", {}, el("span", {}, name), el("b", {}, value), el("small", {}, note ?? ""));
