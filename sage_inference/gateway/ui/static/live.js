// The live stream: connects by itself, again and again, and reports what it sees.

import { authorization, BASE, decoded, events, Refused } from "./gateway.js";

const SILENT_MS = 8000; // a gateway that sends nothing for so long is gone
const HIDDEN_MS = 60000; // nobody watches a page that was hidden for so long

export class Live {
  // handlers: state(document), request(row), connected(), connection(word, tone), refused()
  constructor(handlers) {
    this.handlers = handlers;
    this.wanted = false;
    this.failures = 0;
    document.addEventListener("visibilitychange", () => this.visibility());
  }

  start() { if (!this.wanted) { this.wanted = true; this.failures = 0; this.run(); } }

  stop() { this.wanted = false; this.abort?.abort(); clearTimeout(this.timer); this.wake?.(); }

  visibility() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => { this.paused = this.wanted; this.stop(); }, HIDDEN_MS);
    else if (this.paused) { this.paused = false; this.start(); }
    else this.wake?.();
  }

  async run() {
    const mine = (this.current = {});
    while (this.wanted && this.current === mine) {
      let why = "the gateway is gone";
      try {
        await this.watch();
        why = this.ended ?? why;
      } catch (error) {
        if (!this.wanted || this.current !== mine) return;
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
          this.wanted = false;
          this.handlers.refused();
          return;
        }
        if (error instanceof Refused) why = error.message;
      }
      if (!this.wanted || this.current !== mine) return;
      this.failures += 1;
      const wait = Math.min(10, 2 ** Math.min(this.failures - 1, 4));
      this.handlers.connection(`${why}; trying again`, "bad");
      await new Promise((resolve) => { this.wake = resolve; setTimeout(resolve, wait * 1000); });
    }
  }

  async watch() {
    this.abort = new AbortController();
    this.ended = null;
    this.connected = false;
    const alive = () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.abort.abort(), SILENT_MS); };
    alive();
    try {
      const options = { headers: { accept: "text/event-stream", ...authorization() }, signal: this.abort.signal, cache: "no-store", credentials: "omit" };
      const answer = await fetch(new URL("admin/live", BASE), options);
      if (!answer.ok) await decoded(answer);
      for await (const [name, data] of events(answer)) {
        alive();
        if (name === "end") { this.ended = JSON.parse(data).reason; continue; }
        const document = JSON.parse(data);
        if (name === "request") this.handlers.request(document);
        if (name === "state") {
          this.failures = 0;
          if (!this.connected) { this.connected = true; this.handlers.connected(); }
          this.handlers.connection(document.state, document.state === "running" ? "ok" : "warn");
          this.handlers.state(document);
        }
      }
    } finally {
      clearTimeout(this.timer);
      this.abort.abort();
    }
  }
}
