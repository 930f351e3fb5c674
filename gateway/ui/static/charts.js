// Sparklines as SVG, and charts with uPlot.

import { el, svg } from "./dom.js";
import { clock, count, duration, rate } from "./format.js";

const WIDTH = 72;
const HEIGHT = 20;
const LEAST_S = 300;
/** Steps of an axis of jobs, of which there are no halves. */
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat();
const UNITS = [[86400, "d", WHOLE], [3600, "h", [1, 2, 3, 6, 12]], [60, "min", [1, 2, 5, 10, 15, 30]], [1, "s", [1, 2, 5, 10, 15, 30]]];

/** An axis of durations: its labels are exact, and all of one unit. */
function durations(splits, step) {
  const [seconds, unit] = UNITS.find(([each]) => step >= each);
  return splits.map((value) => (value ? `${count(value / seconds)} ${unit}` : "0"));
}

/** The steps and labels of an axis, by the format of its values. */
const AXES = new Map([
  [count, { incrs: WHOLE, labels: (splits) => splits.map(count) }],
  [rate, { incrs: [0.1, 0.2, 0.5, ...WHOLE], labels: (splits, step) => splits.map((value) => (step < 1 && value ? value.toFixed(1) : count(value))) }],
  [duration, { incrs: UNITS.toReversed().flatMap(([seconds, , steps]) => steps.map((each) => each * seconds)), labels: durations }],
]);

/** Two small lines on one scale, such as rates in and out. The numbers beside it say the same, so it is decoration. */
export function sparkline() {
  const lines = ["in", "out"].map((name) => svg("polyline", { class: `spark-${name}`, fill: "none", "stroke-width": "1.5" }));
  const whole = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", width: WIDTH, height: HEIGHT }, ...lines);
  return { whole, draw: (history) => draw(whole, lines, history) };
}

function draw(whole, lines, history) {
  const most = Math.max(0, ...history.flat().map((each) => each ?? 0));
  const top = most || 1;
  whole.classList.toggle("idle", most === 0);
  if (history.length < 2) history = [[0, 0], [0, 0]];
  const step = WIDTH / Math.max(1, history.length - 1);
  lines.forEach((line, at) => {
    const points = history.map((pair, index) => `${(index * step).toFixed(1)},${(HEIGHT - 1.5 - ((pair[at] ?? 0) / top) * (HEIGHT - 3)).toFixed(1)}`);
    line.setAttribute("points", points.join(" "));
  });
}

const colour = (name) => {
  const probe = el("span", { class: `colour-${name}` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

/** A chart of the last hour. series: [{ label, colour, column, format }]. */
export class Chart {
  constructor(title, series) {
    this._title = title;
    this._series = series;
    this._plot = null;
    this._data = null;
    this._box = el("div", { class: "plot", "aria-hidden": "true" });
    this._summary = el("p", { class: "only-read" });
    const legend = el("span", { class: "legend" }, series.map((each) => el("span", { class: `colour-${each.colour}` }, `● ${each.label}`)));
    this.element = el("figure", { class: "chart" }, el("figcaption", {}, el("span", {}, title), legend), this._box, this._summary);
    this._sizes = new ResizeObserver(() => this._plot?.setSize(this._size()));
    this._sizes.observe(this._box);
    this._scheme = matchMedia("(prefers-color-scheme: dark)");
    this._redraw = () => this._make();
    this._scheme.addEventListener("change", this._redraw);
  }

  /** columns: arrays of equal length by name; `at` is the time in seconds. */
  show(columns) {
    this._data = [columns.at, ...this._series.map((each) => columns[each.column])];
    if (this._plot) this._plot.setData(this._data);
    else this._make();
    const newest = this._series.map((each) => `${each.label}: ${each.format(columns[each.column].at(-1) ?? 0)}`);
    const peaks = this._series.map((each) => each.format(columns[each.column].reduce((top, value) => Math.max(top, value ?? 0), 0)));
    this._summary.textContent = `${this._title}, last hour. Now ${newest.join(", ")}. Highest ${peaks.join(", ")}.`;
  }

  close() {
    this._sizes.disconnect();
    this._scheme.removeEventListener("change", this._redraw);
    this._plot?.destroy();
  }

  _size() {
    return { width: Math.max(200, this._box.clientWidth), height: 150 };
  }

  _make() {
    this._plot?.destroy();
    if (!this._data) return;
    const ink = colour("quiet");
    const grid = { stroke: colour("line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: ink, font, grid, ticks: { show: false } };
    const { incrs, labels } = AXES.get(this._series[0].format);
    const now = Date.now() / 1000;
    this._plot = new window.uPlot({
      ...this._size(),
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: { points: { show: false }, drag: { x: false, y: false } },
      scales: {
        x: { range: (_, low, high) => [Math.min(low ?? now, (high ?? now) - LEAST_S), high ?? now] },
        y: { range: (_, _low, high) => [0, Math.max(1, (high ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, size: 28, values: (_, splits) => splits.map(clock), space: 60, incrs: [60, 120, 300, 600, 900, 1800] },
        { ...axis, size: 56, space: 36, incrs, values: (_, splits, _axis, _space, step) => labels(splits, step) },
      ],
      series: [{}, ...this._series.map((each) => ({ label: each.label, stroke: colour(each.colour), width: 1.75, points: { show: false } }))],
    }, this._data, this._box);
  }
}
