// The page: sign-in, views as tabs, and the stream that feeds them.

import { attribute, el, text } from "./dom.js";
import { duration } from "./format.js";
import { BASE, Refused, forget, signIn, signOut, signedIn } from "./gateway.js";
import { Live } from "./live.js";
import { ConfigurationView } from "./configuration.js";
import { EmbeddingsView } from "./embeddings.js";
import { EnginesView } from "./engines.js";
import { PlaygroundView } from "./playground.js";
import { QueueView } from "./queue.js";
import { RequestsView } from "./requests.js";
import { UsageView } from "./usage.js";

const byId = (id) => document.getElementById(id);
const main = byId("main"), tabs = byId("tabs"), connection = byId("connection");

const VIEWS = [
  ["engines", "Engines", EnginesView],
  ["requests", "Requests", RequestsView],
  ["queue", "Queue", QueueView],
  ["embeddings", "Embeddings", EmbeddingsView],
  ["usage", "Usage", UsageView],
  ["playground", "Playground", PlaygroundView],
  ["configuration", "Configuration", ConfigurationView],
];

const page = {
  state: null,
  views: new Map(),
  open: null,

  notice(message, tone = "ok") {
    const node = byId("notice");
    text(node, message);
    node.dataset.tone = tone;
    node.hidden = false;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => { node.hidden = true; }, 6000);
  },

  // Runs an action of the user. Its failure becomes a notice.
  async act(what, action) {
    try {
      await action();
      if (what) this.notice(what);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) { refused(); return; }
      this.notice(error instanceof Refused ? error.message : "the gateway cannot be reached", "bad");
    }
  },

  latest(most) { return this.views.get("requests")?.view.newest(this.state).slice(0, most) ?? []; },

  explain(id) { this.views.get("requests")?.view.explain(id); },
};

let fresh = true;
const live = new Live({
  state(document) {
    page.state = document;
    // A fault in a view must not end the stream.
    try {
      // The first document may be the first of all viewers, and then it has no rates yet.
      if (!fresh) for (const { view } of page.views.values()) view.remember?.(document);
      fresh = false;
      show();
    } catch (error) { console.error(error); }
  },
  connected() { fresh = true; page.views.get("requests")?.view.catchUp(); },
  request(row) { page.views.get("requests")?.view.add(row); },
  connection(word, tone) { text(connection, word); connection.dataset.tone = tone; document.body.dataset.tone = tone; },
  refused,
});

function show() {
  const { state } = page;
  if (!state || document.hidden) return;
  text(byId("facts"), `${state.version} · ${location.host} · up ${duration(state.uptime_s)}${state.simulated ? " · simulated engines" : ""}`);
  badge("requests", state.requests.in_flight, "running");
  badge("queue", state.queue.requests + state.queue.held, "waiting");
  badge("configuration", state.warnings.length, "warnings", "warn");
  keepInView();
  page.views.get(page.open)?.view.show?.(state);
}

// On a narrow screen a badge that grows moves the chosen tab out of sight.
function keepInView() {
  if (tabs.scrollWidth === page.tabsWidth || !page.open) return;
  page.tabsWidth = tabs.scrollWidth;
  page.views.get(page.open).tab.scrollIntoView({ block: "nearest", inline: "center" });
}

// The word behind the number is for those who hear the page.
function badge(id, number, word, tone = "") {
  const node = page.views.get(id)?.badge;
  if (!node) return;
  text(node, number ? String(number) : "");
  text(node.nextElementSibling, number ? word : "");
  attribute(node, "data-tone", tone);
}

function buildViews() {
  if (page.views.size) return;
  for (const [id, label, View] of VIEWS) {
    const mark = el("span", { class: "badge" });
    const tab = el("button", {
      type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `view-${id}`, "aria-selected": "false", tabindex: "-1",
      onclick: () => select(id),
    }, label, " ", mark, " ", el("span", { class: "unseen" }));
    const view = new View(page);
    const panel = el("div", { role: "tabpanel", id: `view-${id}`, "aria-labelledby": `tab-${id}`, hidden: true }, view.node);
    tabs.append(tab);
    main.append(panel);
    page.views.set(id, { tab, panel, view, badge: mark });
  }
  tabs.addEventListener("keydown", (event) => {
    const ids = VIEWS.map(([id]) => id);
    const at = ids.indexOf(page.open);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(ids[(next + ids.length) % ids.length]);
    page.views.get(page.open).tab.focus();
  });
}

function select(id) {
  page.open = id;
  for (const [name, { tab, panel }] of page.views) {
    const chosen = name === id;
    attribute(tab, "aria-selected", chosen ? "true" : "false");
    attribute(tab, "tabindex", chosen ? "0" : "-1");
    panel.hidden = !chosen;
  }
  if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  page.views.get(id).tab.scrollIntoView({ block: "nearest", inline: "center" });
  page.views.get(id).view.opened?.();
  show();
}

function enter() {
  byId("sign-in")?.remove();
  buildViews();
  tabs.hidden = byId("leave").hidden = false;
  const asked = location.hash.slice(1);
  select(page.views.has(asked) ? asked : page.open ?? "engines");
  live.start();
}

function refused() {
  forget();
  showSignIn("This session has ended: its time is over, or its key is no longer right.");
}

function showSignIn(message) {
  live.stop();
  tabs.hidden = byId("leave").hidden = true;
  for (const { panel } of page.views.values()) panel.hidden = true;
  text(connection, "not signed in");
  connection.dataset.tone = "idle";
  byId("sign-in")?.remove();
  byId("dialog").close();
  const problem = el("p", { class: "problem", role: "alert" }, message ?? "");
  const input = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const form = el("form", {
    async onsubmit(event) {
      event.preventDefault();
      try { await signIn({ key: input.value }); enter(); } catch (error) {
        text(problem, error instanceof Refused ? error.message : "the gateway cannot be reached");
        input.focus();
      }
    },
  }, el("label", { for: "key" }, "Or sign in with the admin key"), el("div", { class: "row" }, input, el("button", { type: "submit" }, "Sign in")));
  main.append(el("section", { id: "sign-in", class: "card narrow" },
    el("h2", {}, "Sign in"), problem,
    el("p", {}, "On the machine of the gateway, this command opens the page:"),
    el("pre", {}, "sage inference ui"), form));
}

// Theme

const THEMES = ["auto", "light", "dark"];

function showTheme(theme) {
  text(byId("theme"), { auto: "◐ auto", light: "○ light", dark: "● dark" }[theme]);
  attribute(byId("theme"), "aria-label", `Theme: ${theme}`);
}

function setTheme(theme) {
  const root = document.documentElement;
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  try { localStorage.setItem("sage-theme", theme); } catch { /* storage is off */ }
  showTheme(theme);
  for (const { view } of page.views.values()) view.restyle?.();
}

byId("theme").addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length]);
});
showTheme(document.documentElement.dataset.theme ?? "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { view } of page.views.values()) view.restyle?.();
});
byId("leave").addEventListener("click", async () => { await signOut(); showSignIn("You are signed out."); });
document.addEventListener("visibilitychange", show);

async function begin() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    // Out of the address bar and the history first: the code is spent, and must not be sent again.
    history.replaceState(null, "", new URL("ui", BASE));
    try { await signIn({ code }); } catch (error) {
      if (!signedIn()) {
        showSignIn(error instanceof Refused ? error.message : "The gateway cannot be reached.");
        return;
      }
    }
  }
  if (signedIn()) enter(); else showSignIn();
}

addEventListener("hashchange", () => {
  const asked = location.hash.slice(1);
  if (asked.startsWith("code=")) begin();
  else if (page.views.has(asked) && signedIn()) select(asked);
});

begin();
