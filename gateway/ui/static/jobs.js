// Payloads: looking at the next job, showing one as text or hex, and enqueueing a test job.

import { curl, queuePath, send } from "./api.js";
import { ask, copyText, field } from "./dialog.js";
import { button, el, say } from "./dom.js";
import { bytes, counted, hex, pretty, sentence, time } from "./format.js";

/** Longer text makes the browser slow: one line of a MiB takes seconds. */
const MOST_CHARS = 65536;

/** The payload as an element with a switch between text and hex. type: its content type. */
export function payloadView(data, type) {
  const json = /[/+]json\b/.test(type);
  let text = null;
  try { text = new TextDecoder("utf-8", { fatal: true }).decode(data); } catch { /* not text: only hex */ }
  const shown = el("pre", { tabindex: 0, "aria-label": "Payload" });
  const modes = text === null ? ["Hex"] : [json ? "Pretty" : "Text", "Hex"];
  const buttons = modes.map((mode) => button(mode, () => set(mode), { "aria-pressed": "false" }));
  function set(mode) {
    shown.textContent = mode === "Hex" ? hex(data) : cut(mode === "Pretty" ? pretty(text) : text);
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.textContent === mode));
  }
  set(modes[0]);
  return el("div", { class: "payload" }, el("div", { class: "row", role: "group", "aria-label": "Show the payload as" }, buttons), shown);
}

function cut(text) {
  const more = text.length - MOST_CHARS;
  return more > 0 ? `${text.slice(0, MOST_CHARS)}\n... ${counted(more, "more character")}` : text;
}

/** The section that shows the job at the head of the queue, which stays there. */
export class JobViewer {
  constructor(app, queue) {
    this._app = app;
    this._path = queuePath(queue, "/peek?format=raw");
    this._content = el("div", { class: "content" }, el("p", { class: "quiet" }, "Peek shows the job and leaves it on the queue."));
    this.element = el("section", { class: "card of-jobs" }, el("h2", {}, "Next job"),
      el("div", { class: "row" }, button("Peek", () => this._peek()), button("Copy as curl", () => copyText(curl("GET", this._path)), { class: "plain" })), this._content);
  }

  async _peek() {
    try {
      const answer = await send("GET", this._path);
      const data = new Uint8Array(await answer.arrayBuffer());
      const header = (name) => { const value = answer.headers.get(name); return value === null ? "" : decode(value); };
      const type = header("content-type");
      const facts = [["Job", header("ce-id") || "raw item"], ["Attempt", header("ce-attempt")], ["Enqueued", time(header("ce-enqueued") || header("ce-time"))], ["Type", type], ["Payload size", bytes(data.length)]];
      this._content.replaceChildren(el("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
        this._app.session.payloads ? payloadView(data, type) : el("p", { class: "quiet" }, "The operator has switched off the display of payloads."));
    } catch (cause) {
      this._content.replaceChildren(el("p", { class: "quiet" }, sentence(cause.message)));
    }
  }
}

function decode(value) {
  try { return decodeURIComponent(value); } catch { return value; }
}

/** Asks for a test job and enqueues it. queue: its name; null: the dialog asks for it. */
export function enqueueDialog(app, queue) {
  const name = el("input", { type: "text", required: true, maxlength: 64, value: queue ?? "", name: "queue", readonly: queue !== null, autocomplete: "off" });
  const type = el("select", { name: "type" }, ["application/json", "text/plain", "application/octet-stream"].map((each) => el("option", { text: each })));
  const body = el("textarea", { rows: 6, name: "body", spellcheck: "false", text: '{"test": true}' });
  const delay = el("input", { type: "number", min: 0, step: "any", name: "delay", inputmode: "decimal" });
  const path = () => queuePath(name.value, `/jobs${delay.value ? `?delay=${encodeURIComponent(delay.value)}` : ""}`);
  ask({
    title: queue === null ? "Enqueue a test job" : `Enqueue a job on “${queue}”`,
    text: "Consumers of the queue get this job like any other.",
    yes: "Enqueue",
    fields: [field("Queue", name), field("Content type", type), field("Payload", body), field("Delay in seconds (optional)", delay)],
    command: () => ["POST", path(), { body: body.value, type: type.value }],
    act: async () => {
      const answer = await send("POST", path(), { body: body.value, headers: { "Content-Type": type.value } });
      const { id } = await answer.json();
      say(`Job ${id} is enqueued on ${name.value}.`);
      if (queue === null) location.hash = `#/queues/${encodeURIComponent(name.value)}`;
    },
  });
}
