// One queue: its figures and charts, and the sections that the key may see.

import { call, get, queuePath } from "./api.js";
import { Chart } from "./charts.js";
import { ask, field } from "./dialog.js";
import { button, el, say, showMarks, table } from "./dom.js";
import { age, ago, bytes, count, counted, duration, rate, sentence, time, until } from "./format.js";
import { enqueueDialog, JobViewer } from "./jobs.js";
import { DeadLetters } from "./letters.js";

const EVERY_MS = 3000;
const HOUR_S = 3600;
const FIGURES = [["Waiting", "items", count], ["Oldest", "age_s", age], ["Leased", "open_reads", count], ["Waiters", "waiters", count],
  ["In per second", "in_rate", rate], ["Out per second", "out_rate", rate], ["Dead letters", "dead_letters", count], ["Size", "bytes", bytes]];

export class QueueView {
  constructor(app, name) {
    this._app = app;
    this._name = name;
    this._columns = null;
    this._figures = el("dl", { class: "totals" });
    this._marks = el("span", { class: "marks" });
    this._servers = el("div", { class: "content" });
    this._pause = null;
    this._charts = [
      new Chart("Jobs", [{ label: "waiting", colour: "in", column: "items", format: count }, { label: "leased", colour: "out", column: "open_reads", format: count }]),
      new Chart("Jobs per second", [{ label: "in", colour: "in", column: "in_rate", format: rate }, { label: "out", colour: "out", column: "out_rate", format: rate }]),
      new Chart("Age of the oldest job", [{ label: "age", colour: "in", column: "age_s", format: duration }]),
    ];
    this._hidden = false;
    this._sections = [];
    this._letters = null;
  }

  show() {
    const app = this._app;
    const name = this._name;
    this._actions = el("div", { class: "row actions" });
    const parts = [el("div", { class: "title" }, el("h1", {}, el("a", { href: "#/", class: "back", "aria-label": "All queues" }, "Queues"), el("span", { "aria-hidden": "true" }, " / "), name, this._marks), this._actions), this._figures];
    if (app.can("listQueues")) {
      parts.push(el("section", { "aria-label": "Charts of the last hour", class: "charts of-jobs" }, this._charts.map((each) => each.element)));
      parts.push(el("section", { class: "card of-jobs" }, el("h2", {}, "Servers"), this._servers));
    }
    this._section(parts, "listLeases", "Open leases", () => this._leases());
    if (app.can("listDeadLetters")) {
      this._letters = new DeadLetters(app, name);
      parts.push(this._letters.element);
    }
    if (app.can("peekJob")) parts.push(new JobViewer(app, name).element);
    if (!name.includes("+")) this._section(parts, "listSubscriptions", "Subscriptions", () => this._subscriptions());
    this._section(parts, "getPolicy", "Policy", () => this._policy(), true);
    app.main.replaceChildren(...parts);
    document.title = `${name} · kestrel-gateway`;
    this._showActions();
    if (app.can("listQueues")) {
      app.feed.follow([`name=${name}`], true);
      this._history();
    }
    this._load();
    this._letters?.load();
    this._timer = setInterval(() => { if (!app.feed.paused) this._load(false); }, EVERY_MS);
  }

  hide() {
    this._hidden = true;
    clearInterval(this._timer);
    for (const chart of this._charts) chart.close();
    this._charts = [];
    document.title = "kestrel-gateway";
    this._app.main.classList.remove("no-queue");
  }

  changed() {
    const row = this._app.feed.queues.get(this._name);
    this._app.main.classList.toggle("no-queue", !row);
    if (!row) { this._missing(); return; }
    this._figures.replaceChildren(...FIGURES.map(([label, member, show]) => el("div", { class: member === "dead_letters" && row[member] ? "bad" : "" }, el("dt", {}, label), el("dd", {}, show(row[member] ?? null, row) || "–"))));
    showMarks(this._marks, row, this._app.feed.coverage);
    if (this._row?.paused !== row.paused) { this._row = row; this._showActions(); }
    this._row = row;
    if (this._wantsHistory) this._history();
    this._append(row);
    if (!this._servers.contains(document.activeElement)) this._servers.replaceChildren(serverTable(row.servers ?? []));
  }

  /** No server has the queue: what could only be empty is hidden (.no-queue). */
  _missing() {
    const coverage = this._app.feed.coverage;
    const [kind, how] = this._name.includes("+")
      ? ["subscription", "A subscription is created with PUT /queues/{queue}/subscriptions/{subscription}."]
      : ["queue", "A queue is created by its first job. Delayed jobs are held elsewhere until they are due."];
    const where = coverage ? ` on the servers that answer (${coverage})` : "";
    this._row = null;
    showMarks(this._marks, {}, null);
    this._showActions();
    this._figures.replaceChildren(el("div", { class: "none" }, el("dt", {}, `This ${kind} does not exist${where}, or it has only delayed jobs`), el("dd", {}, how)));
  }

  refused(cause) {
    if (cause.code === "invalid-name") this._notAName(cause);
    else this._app.refused(cause);
  }

  /** The address has a name that no queue can have. */
  _notAName(cause) {
    if (this._hidden) return;
    this.hide();
    this._app.feed.close();
    this._app.main.replaceChildren(el("div", { class: "card narrow", role: "alert" }, el("h1", {}, "Not the name of a queue"), el("p", { class: "fault" }, sentence(cause.message)), el("a", { href: "#/" }, "All queues")));
  }

  _section(parts, operation, title, load, once = false) {
    if (!this._app.can(operation)) return;
    const content = el("div", { class: "content" });
    parts.push(el("section", { class: once ? "card" : "card of-jobs" }, el("h2", {}, title), content));
    this._sections.push({ content, load, once, loaded: false });
  }

  async _load(all = true) {
    if (this._letters?.failed) this._letters.load();
    await Promise.all(this._sections.filter((each) => all || !each.once || !each.loaded).map(async (each) => {
      try {
        const made = await each.load();
        each.loaded = true;
        if (!each.content.contains(document.activeElement)) each.content.replaceChildren(made);
      } catch (cause) {
        if (cause.code === "invalid-name") { this._notAName(cause); return; }
        each.content.replaceChildren(el("p", { class: "quiet" }, sentence(cause.message)));
      }
    }));
  }

  async _history() {
    this._wantsHistory = false;
    try {
      this._columns = await get(`ui/history?${new URLSearchParams({ queue: this._name })}`);
      if (this._row) this._append(this._row);
      this._drawCharts();
    } catch (cause) {
      this._wantsHistory = cause.status === 0 || cause.status >= 500;
      if (cause.code === "invalid-name") this._notAName(cause);
      else if (cause.status >= 400 && cause.status < 500 && cause.status !== 404) say(cause.message, true);
    }
  }

  _append(row) {
    const columns = this._columns;
    if (!columns || row.at <= (columns.at.at(-1) ?? 0)) return;
    columns.at.push(row.at);
    for (const each of ["items", "open_reads", "age_s", "in_rate", "out_rate"]) columns[each].push(row[each] ?? null);
    while (columns.at.length && columns.at[0] < row.at - HOUR_S) for (const each of Object.keys(columns)) columns[each].shift();
    this._drawCharts();
  }

  _drawCharts() {
    for (const chart of this._charts) chart.show(this._columns);
  }

  _showActions() {
    const { _app: app, _name: name } = this;
    const paused = this._row?.paused ?? false; // null: no server has the queue; undefined: not known yet
    const plain = !name.includes("+");
    this._actions.replaceChildren(...[
      plain && app.can("enqueueJob") && button("Enqueue a job", () => enqueueDialog(app, name)),
      this._row !== null && app.can("pauseQueue") && (paused ? button("Resume", () => this._resume()) : button("Pause delivery", () => this._pauseQueue())),
      this._row !== null && app.can("flushQueue") && button("Flush", () => this._flush(), { class: "danger" }),
      this._row !== null && app.can("deleteQueue") && button("Delete", () => this._delete(), { class: "danger" }),
    ].filter(Boolean));
  }

  async _leases() {
    const { leases, left } = await get(queuePath(this._name, "/leases"));
    if (!leases.length) return el("p", { class: "quiet" }, "No job of this queue is under a lease of this gateway.");
    const rows = leases.map((each) => [el("code", {}, each.lease), each.holder ?? "no key", each.state, each.job_id ?? "raw item", count(each.attempt), ago(each.taken_at), `${until(each.expires_at)} (${time(each.expires_at)})`]);
    return el("div", {}, table("Open leases", ["Lease", "Holder", "State", "Job", "Attempt", "Age", "Ends in"], rows), left ? el("p", { class: "quiet" }, `${counted(left, "more lease")} ${left === 1 ? "is" : "are"} not shown.`) : "");
  }

  async _subscriptions() {
    const { subscriptions } = await get(queuePath(this._name, "/subscriptions"));
    if (!subscriptions.length) return el("p", { class: "quiet" }, "This queue has no subscriptions.");
    return table("Subscriptions", ["Subscription", "Waiting", "Leased", "Waiters"], subscriptions.map((each) => [el("a", { href: `#/queues/${encodeURIComponent(each.name)}` }, each.name), count(each.items), count(each.open_reads), count(each.waiters)]));
  }

  async _policy() {
    const policy = await get(queuePath(this._name, "/policy"));
    const members = Object.entries(policy).filter(([name]) => name !== "queue" && name !== "table");
    return el("div", {}, el("p", { class: "quiet" }, policy.table ? `From the table “${policy.table}” of the policies.` : "No table of the policies covers this queue; these are the defaults."),
      el("dl", { class: "facts" }, members.map(([name, value]) => [el("dt", {}, el("code", {}, name)), el("dd", {}, policyValue(name, value))])));
  }

  _pauseQueue() {
    const reason = el("input", { type: "text", maxlength: 200, name: "reason" });
    const path = queuePath(this._name, "/pause");
    const body = () => (reason.value ? { reason: reason.value } : {});
    ask({
      title: `Pause delivery of “${this._name}”?`, text: "No job of this queue is delivered until it is resumed. New jobs are still accepted, and open leases go on.", yes: `Pause ${this._name}`,
      fields: [field("Reason (optional)", reason)], command: () => ["PUT", path, { body: JSON.stringify(body()), type: "application/json" }],
      act: async () => { await call("PUT", path, body()); say(`${this._name} is paused.`); },
    });
  }

  _resume() {
    const path = queuePath(this._name, "/pause");
    ask({ title: `Resume delivery of “${this._name}”?`, text: "Its jobs are delivered again.", yes: `Resume ${this._name}`, command: () => ["DELETE", path],
      act: async () => { await call("DELETE", path); say(`Jobs of ${this._name} are delivered again.`); } });
  }

  _flush() {
    const path = queuePath(this._name, "/flush");
    ask({ title: `Flush “${this._name}”?`, text: `All waiting jobs of this queue${this._row ? ` (${count(this._row.items)} now)` : ""} are deleted for good. Leased jobs stay with their consumers.`, yes: `Flush ${this._name}`, danger: true,
      command: () => ["POST", path], act: async () => { await call("POST", path); say(`${this._name} is empty.`); } });
  }

  _delete() {
    const path = queuePath(this._name);
    ask({ title: `Delete “${this._name}”?`, text: `The queue and all its jobs${this._row ? ` (${count(this._row.items + this._row.open_reads)} now)` : ""} are deleted for good, and its leases end.`, yes: `Delete ${this._name}`, danger: true,
      command: () => ["DELETE", path],
      act: async () => {
        const { leases_ended: ended } = await call("DELETE", path);
        say(`${this._name} is deleted${ended ? `; ${counted(ended, "lease")} ended` : ""}.`);
        location.hash = "#/";
      } });
  }
}

/** What holds for a member of the policy that no table sets. */
const UNSET = { dead_letter: "this queue's own dead letters", key: "the name of the queue", max_in_flight: "no limit", rate: "no limit" };

function policyValue(name, value) {
  if (value === null) return UNSET[name] ?? "none";
  if (name === "max_bytes") return bytes(value);
  if (name === "lease" || name === "ttl") return `${value} s`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function serverTable(servers) {
  return table("Figures by server", ["Server", "Waiting", "Oldest", "In/s", "Out/s", "Leased", "Waiters", "Size", "Ever stored", "Expired", "Discarded"],
    servers.map((each) => [each.server, count(each.items), age(each.age_s, each), rate(each.in_rate), rate(each.out_rate), count(each.open_reads), count(each.waiters), bytes(each.bytes), count(each.total_items), count(each.expired_items), count(each.discarded_items)]));
}
