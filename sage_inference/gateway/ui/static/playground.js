// A playground: a chat with streaming, and embeddings with their similarities. What is typed stays in this page's memory.

import { el, text } from "./dom.js";
import { count, ms, rate } from "./format.js";
import { BASE, Refused, authorization, call, decoded, events } from "./gateway.js";

const VECTORS = new Set(["embedding", "mixed"]);
const NO_TEXT = new Set(["embedding", "reranker", "classifier"]);

export class PlaygroundView {
  constructor(page) {
    this.page = page;
    this.messages = [];
    this.chat = this.buildChat();
    this.vectors = this.buildVectors();
    this.node = el("div", { class: "halves play" }, this.chat, this.vectors);
  }

  buildChat() {
    this.model = el("select", { id: "chat-model" });
    this.system = el("textarea", { id: "chat-system", rows: "2", placeholder: "none" });
    this.tokens = el("input", { id: "chat-tokens", type: "number", min: "1", max: "100000", value: "512" });
    this.log = el("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" });
    this.prompt = el("textarea", { id: "chat-prompt", rows: "3", required: true, onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.send(); }
    } });
    this.go = el("button", { type: "submit" }, "Send");
    this.halt = el("button", { type: "button", disabled: true, onclick: () => this.abort?.abort() }, "Stop");
    const clear = el("button", { type: "button", class: "quiet", onclick: () => { this.abort?.abort(); this.messages = []; this.log.replaceChildren(); } }, "Clear");
    return el("section", { class: "card" }, el("h2", {}, "Chat"),
      el("div", { class: "fields" },
        el("div", {}, el("label", { for: "chat-model" }, "Model"), this.model),
        el("div", {}, el("label", { for: "chat-tokens" }, "Tokens, at most"), this.tokens)),
      el("details", {}, el("summary", {}, "System prompt"), el("label", { for: "chat-system", class: "unseen" }, "System prompt"), this.system),
      this.log,
      el("form", { onsubmit: (event) => { event.preventDefault(); this.send(); } },
        el("label", { for: "chat-prompt" }, "Message"), this.prompt,
        el("div", { class: "row" }, this.go, this.halt, clear, el("small", { class: "muted" }, "Enter sends, Shift+Enter begins a line. Nothing is stored."))));
  }

  buildVectors() {
    this.embedder = el("select", { id: "embed-model" });
    this.texts = el("textarea", { id: "embed-texts", rows: "5", value: "The cat sat on the mat.\nA kitten rested on the rug.\nStock prices fell on Monday." });
    this.similar = el("div", {});
    this.embedSaid = el("p", { role: "status", class: "muted" });
    return el("section", { class: "card" }, el("h2", {}, "Embeddings"),
      el("form", { onsubmit: (event) => { event.preventDefault(); this.embed(); } },
        el("div", { class: "fields" }, el("div", {}, el("label", { for: "embed-model" }, "Model"), this.embedder)),
        el("label", { for: "embed-texts" }, "Texts, one a line"), this.texts,
        el("div", { class: "row" }, el("button", { type: "submit" }, "Compare"))),
      this.embedSaid, this.similar);
  }

  async opened() {
    const state = this.page.state;
    await this.page.act("", async () => {
      // The session is a key for callers, too. Without keys nothing is sent: an engine would get it.
      const { data } = await call("GET", "v1/models", undefined, this.headers());
      const kinds = new Map((this.page.state ?? state)?.instances.flatMap((each) => each.models.map((model) => [model, each.kind])) ?? []);
      const ids = data.map((each) => each.id);
      fill(this.model, ids.filter((id) => !NO_TEXT.has(kinds.get(id))));
      fill(this.embedder, ids.filter((id) => !kinds.has(id) || VECTORS.has(kinds.get(id))));
    });
  }

  headers() { return this.page.state?.needs_key ? authorization() : {}; }

  say(role, content) {
    const body = el("p", {}, content);
    const about = el("small", {});
    const entry = el("article", { class: `said ${role}` }, el("h3", {}, role === "user" ? "You" : this.model.value || "Model"), body, about);
    this.log.append(entry);
    this.log.scrollTop = this.log.scrollHeight;
    return { body, about, entry };
  }

  async send() {
    const content = this.prompt.value.trim();
    if (!content || this.abort) return;
    this.messages.push({ role: "user", content });
    this.say("user", content);
    this.prompt.value = "";
    this.abort = new AbortController();
    this.go.disabled = true;
    this.halt.disabled = false;
    const shown = this.say("assistant", "");
    shown.entry.setAttribute("aria-busy", "true");
    const run = { answer: "", began: performance.now(), first: null, chunks: 0, usage: null, id: null };
    let problem = "";
    try { await this.stream(run, shown); } catch (error) {
      if (error.name === "AbortError") problem = "stopped";
      else problem = error instanceof Refused ? error.message : "the connection broke";
    }
    if (run.answer) this.messages.push({ role: "assistant", content: run.answer }); else this.messages.pop();
    this.abort = null;
    this.go.disabled = false;
    this.halt.disabled = true;
    shown.entry.removeAttribute("aria-busy");
    this.conclude(run, shown, problem);
    this.prompt.focus();
  }

  async stream(run, shown) {
    const system = this.system.value.trim();
    const body = {
      model: this.model.value || undefined, stream: true, stream_options: { include_usage: true },
      max_tokens: Number(this.tokens.value) || 512, messages: [...(system ? [{ role: "system", content: system }] : []), ...this.messages],
    };
    const answer = await fetch(new URL("v1/chat/completions", BASE), {
      method: "POST", headers: { "content-type": "application/json", ...this.headers() }, body: JSON.stringify(body),
      signal: this.abort.signal, cache: "no-store", credentials: "omit",
    });
    run.id = answer.headers.get("x-request-id");
    if (!answer.ok) await decoded(answer);
    for await (const [, data] of events(answer)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(answer.status, event.error.message ?? "the engine failed");
      run.usage = event.usage ?? run.usage;
      const delta = event.choices?.[0]?.delta;
      const piece = delta?.content ?? delta?.reasoning_content ?? "";
      if (!piece) continue;
      run.first ??= performance.now();
      run.chunks += 1;
      run.answer += piece;
      shown.body.append(piece);
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  conclude(run, shown, problem) {
    const ended = performance.now();
    const tokens = run.usage?.completion_tokens ?? run.chunks;
    const parts = [problem];
    if (run.first !== null) {
      const pace = tokens > 1 && ended > run.first ? `${rate((tokens - 1) / ((ended - run.first) / 1000))} tokens/s` : "";
      parts.push(`first token after ${ms(run.first - run.began)}`, `${count(tokens)} tokens`, pace);
    }
    text(shown.about, parts.filter(Boolean).join(" · "));
    if (problem && problem !== "stopped") shown.entry.classList.add("failed");
    if (run.id) shown.entry.append(el("button", { type: "button", class: "link", onclick: () => this.page.explain(run.id) }, "why this engine?"));
    this.log.scrollTop = this.log.scrollHeight;
  }

  async embed() {
    const input = this.texts.value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 12);
    if (!input.length) return;
    text(this.embedSaid, "…");
    const began = performance.now();
    await this.page.act("", async () => {
      try {
        const answer = await call("POST", "v1/embeddings", { model: this.embedder.value || undefined, input }, this.headers());
        const vectors = answer.data.map((each) => each.embedding);
        text(this.embedSaid, `${count(vectors.length)} vectors of ${count(vectors[0].length)} numbers in ${ms(performance.now() - began)}; cosine similarities:`);
        this.similar.replaceChildren(similarities(input, vectors));
      } catch (error) { text(this.embedSaid, ""); throw error; }
    });
  }
}

function fill(select, ids) {
  const chosen = select.value;
  select.replaceChildren(...ids.map((id) => el("option", { value: id }, id)));
  if (ids.includes(chosen)) select.value = chosen;
}

function similarities(texts, vectors) {
  const length = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0)) || 1;
  const cosine = (a, b) => a.reduce((sum, x, place) => sum + x * b[place], 0) / (length(a) * length(b));
  const head = el("tr", {}, el("th", { scope: "col" }, "Text"), texts.map((_, place) => el("th", { scope: "col", class: "number" }, String(place + 1))));
  const rows = texts.map((words, row) => el("tr", {}, el("th", { scope: "row", title: words }, `${row + 1}. ${words}`), vectors.map((vector) => {
    const value = cosine(vectors[row], vector);
    return el("td", { class: `number heat h${Math.round(Math.min(1, Math.max(0, value)) * 10)}` }, value.toFixed(2));
  })));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Similarities" },
    el("table", { class: "matrix" }, el("caption", { class: "unseen" }, "Cosine similarity of each pair of texts"), el("thead", {}, head), el("tbody", {}, rows)));
}
