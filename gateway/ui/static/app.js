// Starts the page: the key, what it may do, which view is shown, and the live figures.

import { ApiError, chooseTenant, get, hasKey, setKey, tenantChosen } from "./api.js";
import { ask, field } from "./dialog.js";
import { button, el, say } from "./dom.js";
import { sentence } from "./format.js";
import { Feed } from "./feed.js";
import { enqueueDialog } from "./jobs.js";
import { Overview } from "./overview.js";
import { QueueView } from "./queue.js";
import { Servers } from "./servers.js";

const READING = new Set(["listQueues", "getQueue", "listLeases", "listDeadLetters", "peekJob", "listSubscriptions", "getPolicy", "listBackends"]);

class App {
  constructor() {
    this.main = document.getElementById("main");
    this.session = null;
    this.wantsFilter = false;
    this._lost = false;
    this._view = null;
    this._live = document.getElementById("live");
    this._pause = document.getElementById("pause");
    this._key = document.getElementById("key");
    this.feed = new Feed({ changed: (before) => { this.feed.received = true; this._view?.changed(before); }, state: (word, cause) => this._state(word, cause) });
    this._pause.addEventListener("click", () => this._togglePause());
    this._key.addEventListener("click", () => this._askKey());
    document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); this.main.focus(); });
    addEventListener("hashchange", () => { this._route(); this.main.focus({ preventScroll: true }); scrollTo(0, 0); });
    addEventListener("keydown", (event) => this._onKey(event));
  }

  /** Whether the key, the operator's setting and the gateway allow the operation. */
  can(operation) {
    return (this.session?.may.includes(operation) ?? false) && (!this.session.read_only || READING.has(operation));
  }

  async start() {
    try {
      this.session = await get("ui/session");
    } catch (cause) {
      this.session = null;
      if (cause.status === 401) this._askForKeyFirst(hasKey() ? cause.message : "");
      else this._unreachable(cause);
      return;
    }
    this._started();
    this.wantsFilter = false;
  }

  _started() {
    this._key.hidden = !this.session.keyed;
    this._key.textContent = this.session.key ? `Key: ${this.session.key}` : "Key";
    document.querySelector('[data-page="servers"]').hidden = !this.can("listBackends");
    if (!this.session.choose_tenant) chooseTenant("");
    this._route();
  }

  enqueue() {
    enqueueDialog(this, null);
  }

  refused(cause) {
    if (cause instanceof ApiError && cause.status === 401) this._askForKeyFirst(cause.message);
    else say(cause.message, true);
    if (cause instanceof ApiError && cause.status === 403) this._scopesChanged();
  }

  /** The key may have other scopes than before: then the page shows what it may do now. */
  async _scopesChanged() {
    const before = String(this.session?.may);
    const now = await get("ui/session").catch(() => null);
    if (!now || String(now.may) === before) return;
    this.session = now;
    this._started();
  }

  _route() {
    if (!this.session) return;
    this._view?.hide();
    const [, page, name] = location.hash.split("/");
    for (const link of document.querySelectorAll("#nav a[data-page]")) {
      if (link.dataset.page === (page || "queues")) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.feed.received = false;
    if (this.session.choose_tenant && !tenantChosen() && page !== "servers") { this._view = null; this._askForTenant(); return; }
    this._pause.hidden = !this.can("listQueues");
    if (page === "servers" && this.can("listBackends")) this._view = new Servers(this);
    else if (page === "queues" && name) this._view = new QueueView(this, decoded(name));
    else if (this.can("listQueues")) this._view = new Overview(this);
    else { this._view = null; this._byName(); return; }
    this._view.show();
  }

  /** For a key of the whole deployment: it looks at one tenant at a time. */
  _askForTenant() {
    this.feed.close();
    const name = el("input", { type: "text", required: true, maxlength: 64, autocomplete: "off", value: tenantChosen() });
    this.main.replaceChildren(el("form", { class: "card narrow", on: { submit: (event) => { event.preventDefault(); chooseTenant(name.value.trim()); this._route(); } } },
      el("h1", {}, "Choose a tenant"), el("p", {}, "This key may look at the queues of every tenant."), field("Tenant", name), el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Show its queues"))));
  }

  /** For a key that may not list queues: it names one. */
  _byName() {
    const name = el("input", { type: "text", required: true, maxlength: 64, autocomplete: "off" });
    this.main.replaceChildren(el("form", { class: "card narrow", on: { submit: (event) => { event.preventDefault(); location.hash = `#/queues/${encodeURIComponent(name.value)}`; } } },
      el("h1", {}, "Open a queue"), el("p", {}, "This key may not list queues."), field("Name of the queue", name), el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Open"))));
  }

  _askForKeyFirst(fault) {
    this.feed.close();
    this._view?.hide();
    this._view = null;
    this._pause.hidden = true;
    this._live.textContent = "";
    this._key.hidden = true;
    const secret = el("input", { type: "password", required: true, autocomplete: "off", name: "key" });
    this.main.replaceChildren(el("form", { class: "card narrow", on: { submit: (event) => { event.preventDefault(); setKey(secret.value.trim()); this.start(); } } },
      el("h1", {}, "Enter a key"), el("p", {}, "This gateway needs a key. The page keeps it in this tab only, until the tab is closed."),
      field("Key", secret), fault ? el("p", { class: "fault", role: "alert" }, fault) : "", el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Continue"))));
    secret.focus();
  }

  _askKey() {
    const other = this.session?.choose_tenant ? [button("Choose another tenant", (event) => { event.target.closest("dialog").close(); chooseTenant(""); location.hash = "#/"; this._route(); })] : [];
    ask({ fields: other, title: "Forget the key?", text: "This tab then asks for a key again.", yes: "Forget the key", act: async () => { setKey(""); chooseTenant(""); location.hash = "#/"; this._askForKeyFirst(""); } });
  }

  _unreachable(cause) {
    this.main.replaceChildren(el("div", { class: "card narrow", role: "alert" }, el("h1", {}, cause.status ? "The gateway refuses the request" : "The gateway does not answer"), el("p", {}, sentence(cause.message)), button("Try again", () => this.start(), { class: "primary" })));
  }

  _state(word, cause) {
    if (word === "refused") {
      this._live.textContent = "";
      if (this._view?.refused) this._view.refused(cause);
      else this.refused(cause);
      return;
    }
    const lost = cause?.status === 429 ? "Too many requests, trying again" : cause?.status ? "The gateway cannot answer, trying again" : "Connection lost, trying again";
    const shown = { connecting: "Connecting", live: "Live", paused: "Paused", lost }[word];
    if (word === "live" && this._lost) this._scopesChanged(); // the gateway ends the stream of a key that has changed
    if (word === "live" || word === "lost") this._lost = word === "lost";
    this._live.title = word === "lost" ? cause.message : "";
    if (this._live.textContent !== shown) this._live.textContent = shown;
    this._live.className = `live ${word}`;
    this._pause.textContent = word === "paused" ? "Resume" : "Pause";
  }

  _togglePause() {
    if (this.feed.paused) this.feed.resume();
    else this.feed.pause();
  }

  _onKey(event) {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !this.session) this.wantsFilter = true; // the gateway has not said yet what the key may do
    if (event.key === "/" && this._view instanceof Overview) { event.preventDefault(); this._view.focusFilter(); }
    if (event.key === "p" && !this._pause.hidden) this._togglePause();
  }
}

/** The name in the address, which a reader may have typed. */
function decoded(name) {
  try { return decodeURIComponent(name); } catch { return name; }
}

new App().start();
