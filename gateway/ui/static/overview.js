// The table of all queues. Only the rows in view exist, so 1,000 queues cost what 40 do. A row that leaves the view is
// used again for one that comes into it, so scrolling makes no elements.

import { ApiError, get, queuePath } from "./api.js";
import { sparkline } from "./charts.js";
import { button, el, say, showMarks, table } from "./dom.js";
import { age, bytes, count, rate, sentence } from "./format.js";

const COLUMNS = [
  { name: "queue", label: "Queue", text: true },
  { name: "items", label: "Waiting", show: count },
  { name: "age_s", label: "Oldest", show: age },
  { name: "in_rate", label: "In/s", show: rate },
  { name: "out_rate", label: "Out/s", show: rate },
  { name: "open_reads", label: "Leased", show: count },
  { name: "waiters", label: "Waiters", show: count, wide: true },
  { name: "dead_letters", label: "Dead", show: count },
  { name: "bytes", label: "Size", show: bytes, wide: true },
];
const SPARE = 12;
const MARKED_MS = 1500;

export class Overview {
  constructor(app) {
    this._app = app;
    this._sort = { name: "queue", down: false };
    this._asked = []; // the filters of the stream, and the last ones that the gateway accepted
    this._good = [];
    this._queues = [];
    this._rows = [];
    this._made = new Map();
    this._spare = { queue: [], server: [] };
    this._filter = el("input", {
      id: "filter", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "items>100 name~img-*", "aria-describedby": "filter-help filter-fault", "aria-keyshortcuts": "/",
    });
    this._byServer = el("input", { id: "by-server", type: "checkbox", on: { change: () => this._follow() } });
    this._servers = el("label", { class: "check", for: "by-server", hidden: true }, this._byServer, "Figures of each server");
    this._fault = el("p", { id: "filter-fault", class: "fault", role: "alert" });
    this._totals = el("dl", { class: "totals" });
    this._heads = new Map();
    this._body = el("tbody");
    this._above = el("tr", { class: "space", "aria-hidden": "true" }, el("td", { colspan: COLUMNS.length + 1 }));
    this._below = el("tr", { class: "space", "aria-hidden": "true" }, el("td", { colspan: COLUMNS.length + 1 }));
    this._empty = el("div", { class: "empty", hidden: true });
    this._body.append(this._above, this._below);
    this._table = el("table", { class: "queues" }, el("caption", { class: "only-read" }, "Queues"), this._head(), this._body);
    this._frame = 0;
    this._scroll = () => { this._frame ||= requestAnimationFrame(() => { this._frame = 0; this._draw(true); }); };
    this._keys = (event) => this._onKey(event);
  }

  show() {
    const form = el("form", { class: "filter", role: "search", on: { submit: (event) => { event.preventDefault(); this._follow(); } } },
      el("label", { for: "filter" }, "Filter"), this._filter, el("button", { type: "submit" }, "Apply"),
      el("p", { id: "filter-help", class: "quiet" }, "Conditions such as items>100, age>=60 or name~img-*. All must match."), this._servers);
    this._app.main.replaceChildren(el("h1", { class: "only-read" }, "Queues"), this._totals, form, this._fault, this._table, this._empty);
    addEventListener("scroll", this._scroll, { passive: true });
    addEventListener("resize", this._scroll, { passive: true });
    this._body.addEventListener("keydown", this._keys);
    this._filter.addEventListener("search", () => this._follow());
    this._follow();
    this._show(new Map());
    if (this._app.wantsFilter) this.focusFilter();
  }

  hide() {
    removeEventListener("scroll", this._scroll);
    removeEventListener("resize", this._scroll);
    cancelAnimationFrame(this._frame);
  }

  focusFilter() {
    this._filter.focus();
    this._filter.select();
  }

  refused(cause) {
    if (!(cause instanceof ApiError) || cause.status !== 400) { this._app.refused(cause); return; }
    const good = this._good.join(" ");
    this._fault.textContent = `${sentence(cause.message)} The table still shows ${good ? `“${good}”` : "all queues"}.`;
    if (this._asked !== this._good) this._followAgain(this._good);
  }

  changed(before) {
    this._good = this._asked;
    this._show(before);
  }

  _show(before) {
    this._queues = [...this._app.feed.queues.values()].sort((one, other) => this._compare(one, other));
    this._rows = this._byServer.checked ? this._queues.flatMap(withServers) : this._queues;
    this._servers.hidden = this._app.feed.servers < 2;
    this._before = before;
    if (this._coverage !== this._app.feed.coverage) for (const made of this._made.values()) made.drawn = null;
    this._coverage = this._app.feed.coverage;
    this._showTotals();
    this._showEmpty();
    this._draw();
  }

  _filters() {
    return this._filter.value.trim().split(/\s+/).filter(Boolean);
  }

  _follow() {
    this._fault.textContent = "";
    this._followAgain(this._filters());
  }

  _followAgain(filters) {
    this._asked = filters;
    this._app.feed.follow(filters, this._byServer.checked);
  }

  _head() {
    const cells = COLUMNS.map((column) => {
      const sort = button(column.label, () => this._sortBy(column), { class: "sort" });
      const cell = el("th", { scope: "col", class: `c-${column.name}${column.wide ? " wide" : ""}` }, sort);
      this._heads.set(column.name, cell);
      return cell;
    });
    cells.splice(5, 0, el("th", { scope: "col", class: "c-trend wide" }, "Trend"));
    this._markSort();
    return el("thead", {}, el("tr", {}, cells));
  }

  _sortBy(column) {
    const down = this._sort.name === column.name ? !this._sort.down : !column.text;
    this._sort = { name: column.name, down };
    this._markSort();
    this._show(new Map());
  }

  _markSort() {
    for (const [name, cell] of this._heads) {
      if (name === this._sort.name) cell.setAttribute("aria-sort", this._sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  _compare(one, other) {
    const { name, down } = this._sort;
    const names = one.queue < other.queue ? -1 : 1;
    const order = name === "queue" ? names : (one[name] ?? -1) - (other[name] ?? -1);
    return down ? -order || names : order || names;
  }

  _showTotals() {
    const sum = (name) => this._queues.reduce((total, row) => total + (row[name] ?? 0), 0);
    const coverage = this._app.feed.coverage;
    const shown = [["Queues", count(this._queues.length)], ["Waiting", count(sum("items"))], ["Leased", count(sum("open_reads"))], ["Dead letters", count(sum("dead_letters"))]];
    if (this._app.feed.left) shown.push(["Smaller queues not shown", count(this._app.feed.left)]);
    if (coverage) shown.push(["Servers that answered", coverage]);
    this._totals.replaceChildren(...shown.map(([name, value]) => el("div", { class: /answered|not shown/.test(name) ? "warn" : "" }, el("dt", {}, name), el("dd", {}, value))));
  }

  _showEmpty() {
    const none = this._queues.length === 0;
    this._table.hidden = none;
    this._empty.hidden = !none || !this._app.feed.received;
    if (none) {
      this._empty.replaceChildren(el("p", {}, this._asked.length ? "No queue matches the filter." : "There are no queues. A queue is created by its first job."),
        this._app.can("enqueueJob") && !this._asked.length ? button("Enqueue a test job", () => this._app.enqueue(), { class: "primary" }) : "");
    }
  }

  /** Puts the rows that are in view, and some more, between two spaces as high as the other rows. scrolled: nothing
   * else has happened, so the rows that are there may be enough. */
  _draw(scrolled = false) {
    if (this._table.hidden) return;
    const high = matchMedia("(max-width: 45rem)").matches ? 64 : 40;
    const top = this._body.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor(-top / high));
    const to = Math.min(this._rows.length, Math.ceil((innerHeight - top) / high));
    if (scrolled && high === this._high && from >= this._first && to <= this._last) return;
    const first = Math.max(0, from - SPARE);
    const last = Math.max(first, Math.min(this._rows.length, to + SPARE));
    [this._high, this._first, this._last] = [high, first, last];
    const wanted = this._rows.slice(first, last);
    const keys = new Set(wanted.map(keyOf));
    const focused = document.activeElement?.closest?.("tr[data-queue]")?.dataset.queue;
    for (const [key, made] of this._made) {
      if (!keys.has(key) && key !== focused) { this._spare[made.kind].push(made); this._made.delete(key); }
    }
    this._table.setAttribute("aria-rowcount", this._rows.length + 1);
    this._above.firstChild.style.height = `${first * high}px`;
    this._below.firstChild.style.height = `${(this._rows.length - last) * high}px`;
    let at = this._above;
    wanted.forEach((row, index) => {
      const made = this._made.get(keyOf(row)) ?? this._bind(row);
      made.element.setAttribute("aria-rowindex", first + index + 2);
      if (made.drawn !== row) made.draw(row, previous(row, this._before));
      made.drawn = row;
      if (at.nextSibling !== made.element) at.after(made.element);
      at = made.element;
    });
    for (const made of [...this._spare.queue, ...this._spare.server]) made.element.remove();
    this._before = null;
  }

  /** A row of the table for this queue or server: one that has left the view, or a new one. */
  _bind(row) {
    const kind = row.server ? "server" : "queue";
    const made = this._spare[kind].pop() ?? this._make(kind);
    made.bind(row);
    made.drawn = null;
    this._made.set(keyOf(row), made);
    return made;
  }

  _make(kind) {
    const cells = new Map();
    const spark = sparkline();
    const marks = el("span", { class: "marks" });
    const link = el(kind === "server" ? "span" : "a");
    const children = COLUMNS.map((column) => {
      const props = { class: `c-${column.name}${column.wide ? " wide" : ""}`, "data-label": column.label };
      const cell = column.text ? el("th", { scope: "row", ...props }, link, marks) : el("td", props);
      cells.set(column.name, cell);
      return cell;
    });
    children.splice(5, 0, el("td", { class: "c-trend wide" }, spark.whole));
    const element = el("tr", { class: "figures" }, children);
    let shown = null;
    const bind = (row) => {
      link.textContent = row[kind];
      link.title = row[kind];
      element.dataset[kind] = row[kind];
      if (kind === "queue") link.href = `#/queues/${encodeURIComponent(row.queue)}`;
      for (const cell of cells.values()) cell.classList.remove("changed");
    };
    const draw = (row, before) => {
      for (const column of COLUMNS.slice(1)) {
        const value = row[column.name] ?? null;
        const text = value === null ? "" : column.show(value, row);
        const cell = cells.get(column.name);
        if (cell.textContent === text) continue;
        cell.textContent = text;
        if (before && column.name !== "age_s") mark(cell);
        if (column.name === "dead_letters") cell.classList.toggle("bad", row.dead_letters > 0);
      }
      showMarks(marks, row, row.server ? null : this._app.feed.coverage);
      if (row.history !== shown) spark.draw(row.history);
      shown = row.history;
    };
    return { kind, element, bind, draw, drawn: null };
  }

  /** The arrow keys move between the queues, also to those that are not in view. */
  _onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity }[event.key];
    const row = event.target.closest("tr[data-queue]");
    if (!step || !row) return;
    event.preventDefault();
    const from = this._queues.findIndex((each) => each.queue === row.dataset.queue);
    const to = this._queues[Math.min(this._queues.length - 1, Math.max(0, from + step))];
    const high = row.getBoundingClientRect().height;
    scrollTo({ top: scrollY + this._body.getBoundingClientRect().top + this._rows.indexOf(to) * high - innerHeight / 2, behavior: "instant" });
    this._draw();
    this._made.get(to.queue)?.element.querySelector("a").focus({ preventScroll: true });
  }
}

/** What tells the rows apart. No queue has a slash in its name. */
const keyOf = (row) => (row.server ? `${row.queue}/${row.server}` : row.queue);

/** The row of a queue, and those of its servers below it. */
function withServers(row) {
  return [row, ...(row.servers ?? []).map((each) => ({ ...each, queue: row.queue, dead_letters: null, history: [] }))];
}

/** The figures that the row had before; undefined if they have not changed, or the row is new. */
function previous(row, before) {
  const queue = before?.get(row.queue);
  return row.server ? queue?.servers?.find((each) => each.server === row.server) : queue;
}

/** Shows for a moment that the cell has changed. It reads no size: one layout for each of many cells takes long. */
function mark(cell) {
  cell.classList.add("changed");
  setTimeout(() => cell.classList.remove("changed"), MARKED_MS);
}
