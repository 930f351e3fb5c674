// The dead letters of a queue: their reasons, and redrive or delete for one, some or all.

import { call, get, queuePath, send } from "./api.js";
import { ask } from "./dialog.js";
import { button, el, say } from "./dom.js";
import { bytes, count, counted, parseExactly, sentence, time } from "./format.js";
import { payloadView } from "./jobs.js";
import { open } from "./dialog.js";

const LISTED = 50;

export class DeadLetters {
  constructor(app, queue) {
    this._app = app;
    this._queue = queue;
    this._chosen = new Set();
    this.failed = false; // whether it is worth another try
    this._content = el("div", { class: "content" });
    this._bar = el("div", { class: "row" });
    this.element = el("section", { class: "card", id: "dead-letters" }, el("h2", {}, "Dead letters"), this._bar, this._content);
  }

  async load() {
    try {
      const { letters, left } = await get(queuePath(this._queue, `/dead-letters/jobs?max=${LISTED}`));
      const here = new Set(letters.map((each) => each.letter));
      for (const each of this._chosen) if (!here.has(each)) this._chosen.delete(each);
      this._letters = letters;
      this._left = left;
      this.failed = false;
      this._content.replaceChildren(letters.length ? this._table() : el("p", { class: "quiet" }, "There are no dead letters."), left ? el("p", { class: "quiet" }, `${count(left)} more ${left === 1 ? "is" : "are"} not listed.`) : "");
    } catch (cause) {
      this._letters = [];
      this._left = 0;
      this.failed = cause.status === 0 || cause.status >= 500;
      this._content.replaceChildren(el("p", { class: "quiet" }, cause.status === 404 ? "There are no dead letters." : sentence(cause.message)));
    }
    this._showBar();
  }

  _showBar() {
    const app = this._app;
    const some = this._chosen.size;
    const any = this._letters.length > 0;
    const buttons = [
      button("Refresh", () => this.load(), { class: "plain" }),
      any && app.can("redriveDeadLetter") && button(some ? `Redrive ${some} selected` : "Redrive selected", () => this._some("redrive"), { disabled: !some }),
      any && app.can("deleteDeadLetter") && button(some ? `Delete ${some} selected` : "Delete selected", () => this._some("delete"), { class: "danger", disabled: !some }),
      any && app.can("redriveQueue") && button("Redrive all", () => this._all("redrive")),
      any && app.can("deleteDeadLetters") && button("Delete all", () => this._all("delete"), { class: "danger" }),
    ];
    this._bar.replaceChildren(...buttons.filter(Boolean));
    this.element.classList.toggle("of-jobs", !any); // a queue that does not exist may have some
  }

  _table() {
    const app = this._app;
    const choose = app.can("redriveDeadLetter") || app.can("deleteDeadLetter");
    const all = el("input", { type: "checkbox", "aria-label": "Select every listed dead letter", on: { change: () => { for (const each of this._letters) this._choose(each.letter, all.checked); this._content.querySelectorAll("tbody input").forEach((box) => { box.checked = all.checked; }); } } });
    const heads = ["Job", "Reason", "Error", "Attempts", "Died", "Stored size"];
    const rows = this._letters.map((each) => el("tr", {},
      choose ? el("td", {}, el("input", { type: "checkbox", "aria-label": `Select ${each.id ?? each.letter}`, checked: this._chosen.has(each.letter), on: { change: (event) => this._choose(each.letter, event.target.checked) } })) : null,
      el("th", { scope: "row" }, app.session.payloads ? button(each.id ?? each.letter, () => this._look(each), { class: "link" }) : el("code", {}, each.id ?? each.letter)),
      el("td", {}, each.reason ?? ""), el("td", { class: "long" }, each.error ?? ""), el("td", {}, count(each.attempts ?? 0)), el("td", {}, time(each.dead_at)), el("td", {}, bytes(each.bytes))));
    return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Dead letters" },
      el("table", {}, el("caption", { class: "only-read" }, "Dead letters"), el("thead", {}, el("tr", {}, choose ? el("td", {}, all) : null, heads.map((each) => el("th", { scope: "col" }, each)))), el("tbody", {}, rows)));
  }

  _choose(letter, chosen) {
    if (chosen) this._chosen.add(letter);
    else this._chosen.delete(letter);
    this._showBar();
  }

  async _look(letter) {
    try {
      const answer = await send("GET", queuePath(this._queue, `/dead-letters/jobs?max=${LISTED}&payload=true`));
      const { letters } = parseExactly(await answer.text());
      const found = letters.find((each) => each.letter === letter.letter);
      if (!found) throw new Error(letters.length < this._letters.length ? "the payloads of older dead letters fill the answer; redrive or delete those first" : "this dead letter is no longer listed");
      const data = found.data_base64 !== undefined ? Uint8Array.from(atob(found.data_base64), (each) => each.charCodeAt(0)) : new TextEncoder().encode(typeof found.data === "string" && !/json/.test(found.content_type) ? found.data : JSON.stringify(found.data));
      const dialog = open(`Dead letter ${letter.id ?? letter.letter}`, el("div", { class: "ask" }, payloadView(data, found.content_type ?? ""), el("div", { class: "row end" }, button("Close", () => dialog.close(), { autofocus: true }))));
    } catch (cause) {
      say(cause.message, true);
    }
  }

  _some(what) {
    const chosen = [...this._chosen];
    const redrive = what === "redrive";
    const path = (letter) => queuePath(this._queue, `/dead-letters/jobs/${encodeURIComponent(letter)}${redrive ? "/redrive" : ""}`);
    const method = redrive ? "POST" : "DELETE";
    const one = chosen.length === 1;
    const many = counted(chosen.length, "dead letter");
    ask({
      title: `${redrive ? "Redrive" : "Delete"} ${many} of “${this._queue}”?`,
      text: redrive ? `${one ? "It goes back to its queue as a new job" : "They go back to their queue as new jobs"}.` : `${one ? "It is" : "They are"} deleted for good.`,
      yes: `${redrive ? "Redrive" : "Delete"} ${many}`, danger: !redrive,
      command: () => [method, path(chosen[0])],
      act: async () => {
        try {
          for (const each of chosen) {
            await call(method, path(each));
            this._chosen.delete(each);
          }
        } finally {
          await this.load();
        }
        say(`${many} of ${this._queue} ${redrive ? "redriven" : "deleted"}.`);
      },
    });
  }

  _all(what) {
    const redrive = what === "redrive";
    const path = queuePath(this._queue, redrive ? "/redrive" : "/dead-letters");
    const method = redrive ? "POST" : "DELETE";
    const number = this._letters.length + this._left;
    const all = counted(number, "dead letter");
    const [back, gone] = number === 1 ? ["goes back to its queue as a new job", "is"] : ["go back to their queue as new jobs, at most 1,000 at a time", "are"];
    ask({
      title: `${redrive ? "Redrive" : "Delete"} all dead letters of “${this._queue}”?`,
      text: redrive ? `${all} ${back}.` : `${all} ${gone} deleted for good.`,
      yes: `${redrive ? "Redrive" : "Delete"} all of ${this._queue}`, danger: !redrive,
      command: () => [method, path],
      act: async () => {
        const done = await call(method, path);
        this._chosen.clear();
        await this.load();
        say(redrive ? `${counted(done.redriven, "dead letter")} of ${this._queue} redriven; ${count(done.left)} left.` : `${counted(done.deleted, "dead letter")} of ${this._queue} deleted.`);
      },
    });
  }
}
