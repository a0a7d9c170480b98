// Engines: tiles and charts of the last minutes, the table of engines with their actions, and the GPUs.

import { Chart, History } from "./charts.js";
import { Table, attribute, bar, el, text } from "./dom.js";
import { bytes, count, duration, ms, rate, short } from "./format.js";
import { call } from "./gateway.js";
import { requestTable } from "./requests.js";

const TONES = {
  ready: "ok", starting: "warn", waiting: "warn", asleep: "idle", draining: "warn", stopping: "warn", off: "idle",
  ejected: "bad", failed: "bad", stuck: "bad", lost: "bad", stopped: "idle",
};
const MIB = 1048576, LATEST = 12;
const TILES = [
  ["requests", "Requests a second"], ["tokens", "Tokens a second"], ["running", "Running"], ["waiting", "Waiting"],
  ["ttft", "Time to first token"], ["errors", "Errors"],
];

export class EnginesView {
  constructor(page) {
    this.page = page;
    this.history = new History();
    this.tiles = new Map(TILES.map(([key, label]) => [key, { value: el("b", {}, "–"), note: el("small", {}, " "), label }]));
    const tiles = el("div", { class: "tiles" }, [...this.tiles.values()].map(({ label, value, note }) =>
      el("div", { class: "card tile" }, el("span", {}, label), value, note)));
    this.charts = [
      new Chart("Requests a second", this.history, [["requests", "requests", "--accent", { fill: true }], ["errors", "errors", "--bad"]], rate),
      new Chart("Generated tokens a second", this.history, [["tokens", "generated", "--ok", { fill: true }]], short),
      new Chart("Requests", this.history, [["running", "running", "--accent", { fill: true }], ["waiting", "waiting", "--warn"]], short),
      new Chart("Time to first token", this.history, [["ttft", "mean", "--accent", { fill: true }]], ms),
    ];
    this.table = new Table("Engines", this.columns(), { empty: "no engines yet; sage inference load MODEL starts one" });
    this.gpus = el("div", { class: "gpus" });
    this.gpuCards = new Map();
    this.latest = requestTable("Latest requests", page);
    this.node = el("div", { class: "stack" }, tiles, el("div", { class: "charts" }, this.charts.map((chart) => chart.node)),
      el("section", { class: "card flush" }, el("h2", {}, "Engines"), this.table.node), this.gpus,
      el("section", { class: "card flush wide" }, el("h2", {}, "Latest requests"), this.latest.node));
  }

  columns() {
    return [
      { head: "Engine", class: "lead", make: (cell) => {
        const parts = { name: el("b", {}), about: el("small", {}) };
        cell.append(parts.name, parts.about);
        return parts;
      }, update(parts, row) {
        text(parts.name, row.name);
        const about = [row.engine, row.kind, row.simulated && "simulated", row.found && "found here", row.managed && "started here"];
        text(parts.about, about.filter(Boolean).join(" · "));
      } },
      { head: "Models", class: "names", text: (row) => row.models.join(", ") || "–" },
      { head: "State", class: "state", make: (cell) => {
        const parts = { state: el("span", { class: "pill" }), note: el("small", { class: "why" }) };
        cell.append(parts.state, parts.note);
        return parts;
      }, update(parts, row) {
        text(parts.state, row.state);
        attribute(parts.state, "data-tone", TONES[row.state] ?? "idle");
        text(parts.note, row.note ?? "");
        attribute(parts.note, "title", row.note);
      } },
      { head: "Load", class: "load", make: (cell) => {
        const parts = { bar: bar("load", { limit: true }), words: el("span", {}) };
        cell.append(parts.words, parts.bar.node);
        return parts;
      }, update(parts, row) {
        const of = row.limit ? ` / ${row.limit}` : "";
        text(parts.words, `${count(row.in_flight)}${of}`);
        const share = row.limit ? row.in_flight / row.limit : row.window_tokens ? row.pending_tokens / row.window_tokens : 0;
        parts.bar.set(share, `${row.in_flight} requests in flight${row.limit ? ` of ${row.limit}` : ""}`);
      } },
      { head: "Queue", class: "number", text: (row) => count(row.queued) },
      { head: "TTFT", class: "number", text: (row) => ms(row.ttft_ms ?? row.ttfb_ms) },
      { head: "TPOT", class: "number", text: (row) => ms(row.tpot_ms) },
      { head: "Tokens/s", class: "number", text: (row) => short(row.tokens_per_s) },
      { head: "Requests/s", class: "number", text: (row) => rate(row.requests_per_s) },
      { head: "GPU", text: (row) => row.gpu ?? "–" },
      { head: "", class: "actions", make: (cell) => {
        const parts = { cell, shown: "" };
        return parts;
      }, update: (parts, row) => this.actions(parts, row) },
    ];
  }

  actions(parts, row) {
    const wanted = [];
    if (row.instance) wanted.push(row.drained ? "resume" : "drain");
    if (row.managed) {
      const down = ["off", "failed", "lost"].includes(row.managed);
      wanted.push(down ? "load" : "unload");
    }
    const key = wanted.join();
    if (key === parts.shown) return;
    const hadFocus = parts.cell.contains(document.activeElement);
    parts.shown = key;
    parts.cell.replaceChildren(...wanted.map((what) => this.action(what, row.name)));
    if (hadFocus) parts.cell.querySelector("button")?.focus();
  }

  action(what, name) {
    const words = { drain: "Drain", resume: "Resume", load: "Load", unload: "Unload" };
    const done = {
      drain: `${name} gets no new requests; its running ones finish`, resume: `${name} takes requests again`,
      load: `${name} starts`, unload: `${name} ends when its requests have finished`,
    };
    const path = what === "drain" || what === "resume" ? "instances" : "engines";
    let sure = what !== "unload";
    const button = el("button", {
      type: "button", class: "small", "aria-label": `${words[what]} ${name}`,
      onclick: () => {
        if (!sure) {
          sure = true;
          text(button, "Really unload?");
          attribute(button, "aria-label", `Really unload ${name}?`);
          setTimeout(() => { sure = false; text(button, words[what]); attribute(button, "aria-label", `${words[what]} ${name}`); }, 5000);
          return;
        }
        this.page.act(done[what], () => call("POST", `admin/${path}/${encodeURIComponent(name)}/${what}`));
      },
    }, words[what]);
    return button;
  }

  // Called for each document, also while another view is open.
  remember(state) {
    const values = {
      requests: state.rates.requests_per_s, errors: state.rates.errors_per_s, tokens: state.rates.tokens_per_s,
      running: state.requests.in_flight, waiting: state.queue.requests + state.queue.held,
    };
    const known = state.instances.filter((each) => each.ttft_ms != null && each.answers > 0);
    if (known.length) values.ttft = known.reduce((sum, each) => sum + each.ttft_ms, 0) / known.length;
    this.ttft = values.ttft;
    this.history.add(state.at_ms / 1000, values);
  }

  show(state) {
    const tile = (key, value, note) => { const parts = this.tiles.get(key); text(parts.value, value); text(parts.note, note); };
    const { requests, rates, queue } = state;
    tile("requests", rate(rates.requests_per_s), `${short(requests.total)} since the start`);
    tile("tokens", short(rates.tokens_per_s), `and ${short(rates.prompt_tokens_per_s)} of prompts`);
    tile("running", count(requests.in_flight), `on ${state.instances.filter((each) => each.state === "ready").length} ready engines`);
    tile("waiting", count(queue.requests + queue.held), queue.requests ? `the oldest for ${ms(queue.oldest_ms)}` : "none waits");
    tile("ttft", ms(this.ttft), "streams of the last 10 s");
    tile("errors", count(requests.errors), `callers left: ${count(requests.cancelled)}, retries: ${count(requests.retried)}`);
    this.table.show(rowsOf(state));
    for (const chart of this.charts) chart.draw();
    this.showGpus(state.gpus);
    this.latest.show(this.page.latest(LATEST));
  }

  showGpus(gpus) {
    for (const gpu of gpus) {
      let held = this.gpuCards.get(gpu.index);
      if (!held) {
        held = { memory: bar("memory", { limit: true }), use: bar("use"), memoryWords: el("small"), useWords: el("small") };
        this.gpus.append(el("section", { class: "card gpu" }, el("h2", {}, `GPU ${gpu.index}`), el("small", {}, gpu.name),
          el("div", { class: "meter" }, el("span", {}, "Memory"), held.memory.node, held.memoryWords),
          el("div", { class: "meter" }, el("span", {}, "Use"), held.use.node, held.useWords)));
        this.gpuCards.set(gpu.index, held);
      }
      const memory = `${bytes(gpu.memory_used_mb * MIB)} of ${bytes(gpu.memory_total_mb * MIB)}`;
      held.memory.set(gpu.memory_used_mb / gpu.memory_total_mb, memory);
      text(held.memoryWords, memory);
      const use = gpu.use_percent == null ? "not reported" : `${gpu.use_percent} %`;
      held.use.set((gpu.use_percent ?? 0) / 100, use);
      text(held.useWords, use);
    }
  }

  opened() { for (const chart of this.charts) chart.draw(); }

  restyle() { for (const chart of this.charts) chart.restyle(); }
}

// Instances, and after them the engines of the gateway that are no instance now.
function rowsOf(state) {
  const managed = new Map(state.engines.map((each) => [each.name, each]));
  const rows = state.instances.map((each) => ({ ...each, instance: true, note: noteOf(each, managed.get(each.name)) }));
  const seen = new Set(rows.map((row) => row.name));
  for (const each of state.engines) {
    if (seen.has(each.name)) continue;
    rows.push({
      name: each.name, engine: each.engine, kind: each.kind, models: each.model ? [each.model] : [], state: each.state, managed: each.state,
      in_flight: each.in_flight ?? 0, queued: each.queued, gpu: each.gpus.length ? each.gpus.join(", ") : null, instance: false, note: noteOf(each, each),
    });
  }
  return rows;
}

function noteOf(row, engine) {
  if (engine?.failure) {
    const again = engine.failure.retry_in_s == null ? "" : `; again in ${duration(engine.failure.retry_in_s)}`;
    return `${engine.failure.message}${again}`;
  }
  if (engine?.state === "starting") {
    const share = engine.progress == null ? "" : ` ${Math.round(engine.progress * 100)} %`;
    return `${engine.phase ?? "starting"}${share}, ${duration(engine.since_s)}${engine.expected_s ? ` of about ${duration(engine.expected_s)}` : ""}`;
  }
  return row.last_error ?? (row.drained ? "drained by you" : null);
}
