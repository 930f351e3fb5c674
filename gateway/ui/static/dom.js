// Makes elements. Text is always set as text: no function here reads HTML.

/** An element. props: attributes; `on` holds listeners, `class` and `text` are as they say, false leaves one out. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (name === "text") made.textContent = value;
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

/** An SVG element. */
export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function button(text, click, props = {}) {
  return el("button", { type: "button", on: { click }, ...props }, text);
}

let fading = 0;

/** Shows a short message at the bottom, which screen readers read. */
export function say(text, bad = false) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.classList.toggle("bad", bad);
  said.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => said.classList.remove("shown"), bad ? 10000 : 5000);
}

/** Shows the marks of a queue. coverage: such as `1/2` while a server does not answer, else null: then the figures are
 * those of the others. */
export function showMarks(marks, row, coverage) {
  const words = [row.paused && "paused", row.full && "full", row.reachable === false && "no HTTP name", coverage && `${coverage} servers`].filter(Boolean);
  if (marks.dataset.words === words.join()) return;
  marks.dataset.words = words.join();
  marks.replaceChildren(...words.map((word) => el("span", { class: `mark ${/^\w+$/.test(word) ? word : "part"}` }, word)));
}

/** A table with one body row for each of `rows`, each a list of cells (text or elements). */
export function table(caption, heads, rows) {
  const head = el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text))));
  const body = el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell ?? "")))));
  const whole = el("table", {}, el("caption", { class: "only-read" }, caption), head, body);
  return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": caption }, whole);
}
