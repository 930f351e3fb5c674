// Numbers, sizes and times as text.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => (value >= 1e6 ? compact.format(value) : whole.format(value));

/** A number with its noun: `1 lease`, `2 leases`. */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** A message of the gateway as a sentence. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return seconds > 0 ? "<1 s" : "0";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** The age of the oldest job of a queue; an empty queue has none. */
export const age = (seconds, row) => (row.items ? duration(seconds) : "–");

export function rate(value) {
  if (value === null || value === undefined) return "";
  if (!value) return "0";
  return value < 10 ? value.toFixed(1) : count(Math.round(value));
}

/** A time of the API (RFC 3339) in the reader's own zone. */
export function time(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" }) : "";
}

/** Hours and minutes of a Unix time. */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const ago = (text) => (text ? duration(Math.max(0, (Date.now() - Date.parse(text)) / 1000)) : "");
export const until = (text) => (text ? duration(Math.max(0, (Date.parse(text) - Date.now()) / 1000)) : "");

/** JSON with every number as it was written: 1.10 stays 1.10, and large numbers keep their digits. */
export function parseExactly(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) =>
    (typeof value === "number" && String(value) !== context.source ? JSON.rawJSON(context.source) : value));
}

export function pretty(text) {
  try {
    return JSON.stringify(parseExactly(text), null, 2);
  } catch {
    return text;
  }
}

/** Bytes as lines of an offset, 16 bytes in hex, and the same as ASCII. */
export function hex(data, limit = 4096) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, limit); at += 16) {
    const some = [...data.subarray(at, at + 16)];
    const pairs = some.map((each) => each.toString(16).padStart(2, "0")).join(" ");
    const text = some.map((each) => (each >= 32 && each < 127 ? String.fromCharCode(each) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${pairs.padEnd(47)}  ${text}`);
  }
  if (data.length > limit) lines.push(`... ${counted(data.length - limit, "more byte")}`);
  return lines.join("\n");
}
