// Charts of the last five minutes, drawn by uPlot from what the page has seen. The gateway keeps no history.

import { attribute, el, text } from "./dom.js";
import { clock } from "./format.js";

const SPAN_S = 300, LEAST_S = 60;
const HEIGHT = 132;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class History {
  constructor() { this.times = []; this.values = new Map(); }

  add(at, values) {
    const last = this.times.at(-1);
    if (last !== undefined && at <= last) return;
    if (last !== undefined && at - last > 5) this.push(last + 1, {}); // a gap, not a line across it
    this.push(at, values);
    while (this.times.length && this.times[0] < at - SPAN_S) {
      this.times.shift();
      for (const series of this.values.values()) series.shift();
    }
  }

  push(at, values) {
    for (const name of Object.keys(values)) {
      if (!this.values.has(name)) this.values.set(name, this.times.map(() => null));
    }
    this.times.push(at);
    for (const [name, series] of this.values) series.push(values[name] ?? null);
  }

  of(name) { return this.values.get(name) ?? this.times.map(() => null); }
}

export class Chart {
  // series: [[name in the history, label, colour variable, {fill, span}]]; with span the line goes on over unknown values
  constructor(title, history, series, format) {
    Object.assign(this, { title, history, series, format });
    this.value = el("span", { class: "now" });
    this.frame = el("div", { class: "plot", role: "img", "aria-label": title });
    const legend = series.length > 1 && el("span", { class: "legend" }, series.map(([, label, tone]) =>
      el("span", { class: "key", "data-tone": tone }, label)));
    this.node = el("section", { class: "card chart" }, el("div", { class: "chart-head" }, el("h2", {}, title), legend, this.value), this.frame);
    this.plot = null;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.frame);
  }

  draw() {
    const width = this.frame.clientWidth;
    if (!width || !this.frame.isConnected) return;
    const { history } = this;
    const now = history.times.at(-1) ?? Date.now() / 1000;
    const data = [history.times, ...this.series.map(([name]) => history.of(name))];
    const newest = this.series.map(([name]) => history.of(name).at(-1));
    text(this.value, newest[0] == null ? "" : this.format(newest[0]));
    const said = this.series.map(([, label], place) => `${label} ${newest[place] == null ? "not known" : this.format(newest[place])}`);
    attribute(this.frame, "aria-label", `${this.title}, last five minutes; now: ${said.join(", ")}`);
    this.range = [now - Math.min(SPAN_S, Math.max(LEAST_S, now - (history.times[0] ?? now))), now];
    if (this.plot) this.plot.setData(data);
    else { this.plot = new uPlot(this.options(width), data, this.frame); }
  }

  options(width) {
    const axis = { stroke: colour("--muted"), font: "11px system-ui", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    return {
      width, height: HEIGHT, pxAlign: 1, legend: { show: false }, cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      padding: [8, 22, 0, 0],
      scales: { x: { time: true, range: () => this.range }, y: { range: (plot, low, high) => [0, Math.max(1, (high ?? 0) * 1.15)] } },
      axes: [
        { ...axis, size: 22, space: 80, values: (plot, ticks) => ticks.map((tick) => clock(tick * 1000)) },
        { ...axis, size: 46, space: 34, values: (plot, ticks) => ticks.map((tick) => this.format(tick)) },
      ],
      series: [{}, ...this.series.map(([, label, tone, { fill = false, span = false } = {}]) => ({
        label, stroke: colour(tone), width: 1.5, points: { show: false }, spanGaps: span, fill: fill ? colour(`${tone}-soft`) : undefined,
      }))],
    };
  }

  resize() {
    const width = this.frame.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    else if (!this.plot) this.draw();
  }

  // The colours are baked into the canvas, so a change of theme makes a new one.
  restyle() { this.plot?.destroy(); this.plot = null; this.draw(); }
}
