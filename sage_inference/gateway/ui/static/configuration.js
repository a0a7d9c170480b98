// What the configuration warns of, the reload, the policies and the SLOs.

import { Table, attribute, card, definitions, el, text } from "./dom.js";
import { ms } from "./format.js";
import { call } from "./gateway.js";

export class ConfigurationView {
  constructor(page) {
    this.page = page;
    this.warnings = el("ul", { class: "warnings" });
    this.outcome = el("p", { role: "status" });
    this.facts = definitions([["version", "Version"], ["pid", "Process"], ["address", "Address"], ["keys", "Callers need a key"], ["discover", "Looks for engines"]]);
    this.policy = el("select", { id: "policy", onchange: () => this.setPolicy(null, this.policy.value) });
    this.models = new Table("Policies of models", [
      { head: "Model", class: "lead names", text: (row) => row.name },
      { head: "Policy", text: (row) => row.policy },
      { head: "", class: "actions", make: (cell) => {
        const parts = { name: "" };
        parts.button = el("button", { type: "button", class: "small", onclick: () => this.setPolicy(parts.name, null) }, "Use the common one");
        cell.append(parts.button);
        return parts;
      }, update: (parts, row) => { parts.name = row.name; attribute(parts.button, "aria-label", `Use the common policy for ${row.name}`); } },
    ], { empty: "every model uses the common policy" });
    this.slos = new Table("SLOs", [
      { head: "Models", class: "lead names", text: (row) => (row.models ?? ["all others"]).join(", ") },
      { head: "Priority", text: (row) => row.priority },
      { head: "First token", class: "number", text: (row) => ms(row.ttft_ms) },
      { head: "From", text: (row) => row.ttft_from },
      { head: "Each token", class: "number", text: (row) => ms(row.tpot_ms) },
    ], { keyOf: (row) => `${(row.models ?? []).join()} ${row.priority}`, empty: "the usual defaults: first token in 1 s, then 50 ms a token" });
    const reload = el("button", { type: "button", onclick: () => this.reload() }, "Reload the configuration");
    this.node = el("div", { class: "stack" },
      el("div", { class: "halves" },
        card("Warnings", this.warnings),
        card("Configuration", this.facts.node, el("div", { class: "row" }, reload), this.outcome)),
      card("Policy", el("div", { class: "row" }, el("label", { for: "policy" }, "Policy of all models"), this.policy),
        el("p", { class: "muted" }, "The change holds until the gateway stops. The configuration file keeps its value."), this.models.node),
      el("section", { class: "card flush" }, el("h2", {}, "SLOs"), this.slos.node));
  }

  async opened() {
    await this.page.act("", async () => this.showPolicies(await call("GET", "admin/policy")));
  }

  showPolicies({ policy, models, policies }) {
    if (this.policy.options.length !== policies.length) this.policy.replaceChildren(...policies.map((name) => el("option", {}, name)));
    this.policy.value = policy;
    this.models.show(Object.entries(models).map(([name, its]) => ({ name, policy: its })));
  }

  async setPolicy(model, policy) {
    const body = model === null ? { policy } : { model, policy };
    await this.page.act(model === null ? `requests are placed by ${policy} now` : `${model} uses the common policy now`, async () => {
      this.showPolicies(await call("PUT", "admin/policy", body));
    });
  }

  async reload() {
    text(this.outcome, "");
    await this.page.act("", async () => {
      const found = await call("POST", "admin/reload");
      const parts = [["added", found.added], ["removed", found.removed], ["changed", found.changed], ["settings", found.settings], ["only at the next restart", found.needs_restart]];
      const said = parts.filter(([, names]) => names.length).map(([word, names]) => `${word}: ${names.join(", ")}`).join("; ");
      text(this.outcome, said ? `Reloaded. ${said}` : "Reloaded. Nothing changed.");
    });
  }

  show(state) {
    const { facts } = this;
    facts.set("version", state.version);
    facts.set("pid", String(state.pid));
    facts.set("address", state.address);
    facts.set("keys", state.needs_key ? "yes" : "no");
    facts.set("discover", state.discover ? "yes" : "no");
    const shown = JSON.stringify(state.warnings);
    if (shown !== this.shownWarnings) {
      this.shownWarnings = shown;
      this.warnings.replaceChildren(...(state.warnings.length ? state.warnings.map((each) => el("li", {}, each)) : [el("li", { class: "fine" }, "none: the configuration and the engines agree")]));
    }
    if (document.activeElement !== this.policy && this.policy.options.length) this.policy.value = state.policy;
    this.slos.show(state.slos);
  }
}
