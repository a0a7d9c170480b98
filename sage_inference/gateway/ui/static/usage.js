// Usage since a day: requests and tokens by key, model, user, engine or time. The gateway keeps it across restarts.

import { Table, bar, card, definitions, el, text } from "./dom.js";
import { count, duration, short } from "./format.js";
import { Refused, call } from "./gateway.js";

const BY = [["model", "Model"], ["key", "Key"], ["user", "User"], ["instance", "Engine"], ["day", "Day"], ["hour", "Hour"]];
const SINCE = [["today", "today"], ["24h", "last 24 hours"], ["7d", "last 7 days"], ["30d", "last 30 days"], ["365d", "last year"]];
const AGAIN_MS = 15000; // usage changes slowly, and is read from a file

const tokensOf = (row) => row.prompt_tokens + row.completion_tokens + row.estimated_prompt_tokens + row.estimated_completion_tokens;

export class UsageView {
  constructor(page) {
    this.page = page;
    const ask = () => this.load();
    this.by = el("select", { id: "usage-by", onchange: ask }, BY.map(([value, label]) => el("option", { value }, label)));
    this.since = el("select", { id: "usage-since", onchange: ask }, SINCE.map(([value, label]) => el("option", { value }, label)));
    this.since.value = "7d";
    this.said = el("p", { role: "status", class: "muted" });
    this.total = definitions([
      ["requests", "Requests"], ["errors", "Errors"], ["cancelled", "Callers left"], ["prompt", "Prompt tokens"], ["completion", "Generated tokens"],
      ["cached", "Cached tokens"], ["texts", "Embedded texts"], ["gpu", "Busy time of engines"],
    ]);
    this.table = new Table("Usage", [
      { head: "Name", class: "lead names", text: (row) => row.name || "none" },
      { head: "Tokens", class: "load", make: (cell) => { const parts = { words: el("span"), bar: bar("share") }; cell.append(parts.words, parts.bar.node); return parts; },
        update(parts, row) { text(parts.words, short(tokensOf(row))); parts.bar.set(row.share, `${Math.round(row.share * 100)} % of all tokens`); } },
      { head: "Requests", class: "number", text: (row) => count(row.requests) },
      { head: "Errors", class: "number", text: (row) => count(row.errors) },
      { head: "Prompt", class: "number", text: (row) => short(row.prompt_tokens) },
      { head: "Generated", class: "number", text: (row) => short(row.completion_tokens) },
      { head: "Cached", class: "number", text: (row) => short(row.cached_tokens) },
      { head: "Estimated", class: "number", text: (row) => short(row.estimated_prompt_tokens + row.estimated_completion_tokens) },
      { head: "Texts", class: "number", text: (row) => short(row.embedding_texts) },
      { head: "Busy time", class: "number", text: (row) => duration(row.gpu_seconds) },
    ], { empty: "nothing was used in this time" });
    this.node = el("div", { class: "stack" },
      card("Usage", el("div", { class: "row" },
        el("label", { for: "usage-by" }, "By"), this.by, el("label", { for: "usage-since" }, "Since"), this.since), this.said, this.total.node),
      el("section", { class: "card flush" }, this.table.node));
  }

  opened() { this.load(); }

  show() { if (Date.now() - this.askedAt > AGAIN_MS) this.load(); }

  async load() {
    this.askedAt = Date.now();
    await this.page.act("", async () => {
      try {
        this.showUsage(await call("GET", `admin/usage?by=${this.by.value}&since=${this.since.value}`));
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 404) throw error;
        text(this.said, error.message);
        this.table.show([]);
      }
    });
  }

  showUsage({ by, rows, total, kept_days }) {
    const set = (key, value) => this.total.set(key, value);
    const setTokens = (key, word) => {
      const estimated = total[`estimated_${word}_tokens`];
      set(key, count(total[`${word}_tokens`]), estimated ? `and about ${short(estimated)} estimated` : "");
    };
    set("requests", count(total.requests));
    set("errors", count(total.errors));
    set("cancelled", count(total.cancelled));
    setTokens("prompt", "prompt");
    setTokens("completion", "completion");
    set("cached", count(total.cached_tokens));
    set("texts", count(total.embedding_texts));
    set("gpu", duration(total.gpu_seconds));
    text(this.said, `Kept for ${count(kept_days)} days. Tokens are those that engines report; those of other streams are estimated.`);
    const all = Math.max(1, tokensOf(total));
    this.table.rename(0, BY.find(([value]) => value === by)?.[1] ?? "Name");
    this.table.show(rows.map((row) => ({ ...row, name: row[by], share: tokensOf(row) / all })));
  }
}
