// Dialogs. A dialog that changes something names the queue, and its harmless button has the focus.

import { button, el, say } from "./dom.js";
import { curl } from "./api.js";

let last = 0;

/** Opens a modal dialog and returns it. It is removed when it closes. */
export function open(title, content) {
  last += 1;
  const id = `dialog-${last}`;
  const dialog = el("dialog", { "aria-labelledby": id, on: { close: () => dialog.remove() } }, el("h2", { id }, title), content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks before `act` runs. call: [method, path, options] of the request, for the command. Resolves when it closes. */
export function ask({ title, text, yes, danger = false, fields = [], command, act }) {
  return new Promise((closed) => {
    const fault = el("p", { class: "fault", role: "alert" });
    const cancel = button("Cancel", () => dialog.close(), { autofocus: true });
    const copy = command ? button("Copy as curl", () => copyText(curl(...command())), { class: "plain" }) : null;
    const confirm = el("button", { type: "submit", class: danger ? "danger" : "primary" }, yes);
    const form = el("form", {
      class: "ask",
      on: {
        submit: async (event) => {
          event.preventDefault();
          confirm.disabled = true;
          fault.textContent = "";
          try {
            await act();
            dialog.close();
          } catch (cause) {
            fault.textContent = cause.message;
            confirm.disabled = false;
          }
        },
      },
    }, el("p", {}, text), fields, fault, el("div", { class: "row end" }, copy, cancel, confirm));
    const dialog = open(title, form);
    dialog.addEventListener("close", () => closed());
  });
}

/** A labelled field. control: an input, select or textarea. */
export function field(label, control, hint = "") {
  return el("label", { class: "field" }, el("span", {}, label), control, hint ? el("small", { class: "quiet" }, hint) : null);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    // Over plain HTTP to another host, browsers have no clipboard for pages.
    const area = el("textarea", { rows: 4, readonly: true, "aria-label": "Command", text });
    const dialog = open("Copy this command", el("div", { class: "ask" }, area, el("div", { class: "row end" }, button("Close", () => dialog.close()))));
    area.select();
  }
}
