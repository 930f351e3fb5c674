// The Kestrel servers, for operators: their states, and switches to take one out of service.

import { call, get } from "./api.js";
import { ask } from "./dialog.js";
import { button, el, say, table } from "./dom.js";
import { ago, count, time } from "./format.js";

const EVERY_MS = 3000;
const STATES = ["pinned", "busy", "idle", "connecting"];
const MEANING = {
  up: "accepts and delivers jobs",
  readonly: "accepts no new jobs, and still delivers those that it has",
  quiescent: "neither accepts nor delivers jobs; open leases can be settled",
};

export class Servers {
  constructor(app) {
    this._app = app;
    this._list = el("div", { class: "cards" });
  }

  show() {
    this._app.main.replaceChildren(el("h1", {}, "Servers"), el("p", { class: "quiet" }, "As one worker of this gateway sees them."), this._list);
    this._app.feed.follow([]);
    this._load();
    this._timer = setInterval(() => this._load(), EVERY_MS);
  }

  hide() {
    clearInterval(this._timer);
  }

  changed() {}

  async _load() {
    if (this._app.feed.paused && this._list.childElementCount) return;
    try {
      const { backends } = await get("backends");
      if (this._list.contains(document.activeElement)) this._refocus = document.activeElement.dataset.name;
      this._list.replaceChildren(...backends.map((each) => this._card(each)));
      if (this._refocus) this._list.querySelector(`[data-name="${CSS.escape(this._refocus)}"]`)?.focus();
      this._refocus = null;
    } catch (cause) {
      if (cause.status) this._app.refused(cause); // the head of the page says that the gateway cannot be reached
    }
  }

  _card(backend) {
    const facts = [
      ["Since", `${time(backend.since)} (${ago(backend.since)})`],
      ["Software", [backend.software, backend.version].filter(Boolean).join(" ") || "unknown"],
      ["Connections", STATES.filter((name) => backend.connections[name]).map((name) => `${count(backend.connections[name])} ${name}`).join(", ") || "none"],
      ["Delayed jobs", backend.delayed === undefined ? "" : count(backend.delayed)],
      ["Missing", backend.missing.join(", ")],
      ["Error", backend.error ?? ""],
    ].filter(([, value]) => value);
    const switches = this._app.can("setBackendStatus")
      ? el("div", { class: "row", role: "group", "aria-label": `Status of ${backend.server}` },
        Object.keys(MEANING).map((status) => button(status, () => this._set(backend, status), {
          "aria-pressed": String(backend.status === status), "data-name": `${backend.server} ${status}`, disabled: backend.status === "down",
        })))
      : null;
    return el("section", { class: "card", "aria-label": backend.server },
      el("h2", {}, backend.server, " ", el("span", { class: `mark ${backend.status}` }, backend.status), backend.full ? el("span", { class: "mark full" }, "full") : "", backend.leaving ? el("span", { class: "mark" }, "leaving") : ""),
      el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])), switches);
  }

  _set(backend, status) {
    if (backend.status === status) return;
    const path = `backends/${encodeURIComponent(backend.server)}/status`;
    const body = JSON.stringify({ status });
    ask({
      title: `Set ${backend.server} to ${status}?`,
      text: `The server then ${MEANING[status]}. It keeps this status when it restarts.`,
      yes: `Set to ${status}`,
      danger: status !== "up",
      command: () => ["PUT", path, { body, type: "application/json" }],
      act: async () => {
        await call("PUT", path, { status });
        say(`${backend.server} is ${status}.`);
        await this._load();
      },
    });
  }
}
