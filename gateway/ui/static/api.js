// Calls the gateway. The key is kept in this tab only (sessionStorage) and sent in a header, never in a URL.

const STORED = "kestrel-gateway.key";
const TENANT = "kestrel-gateway.tenant";
/** The gateway's own root, whatever prefix a proxy adds: the page is at {root}/ui/. */
export const root = new URL("../", new URL(".", location.href));

let key = sessionStorage.getItem(STORED) ?? "";

/** The tenant that a key of the whole deployment looks at; empty for every other key. */
let tenant = sessionStorage.getItem(TENANT) ?? "";
export const tenantChosen = () => tenant;

export function chooseTenant(value) {
  tenant = value;
  if (value) sessionStorage.setItem(TENANT, value);
  else sessionStorage.removeItem(TENANT);
}

export const hasKey = () => key !== "";

export function setKey(value) {
  key = value;
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** A problem (RFC 9457) that the gateway answered, or a failure to reach it (status 0). */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
  }
}

function headersOf(given = {}) {
  return key ? { ...given, Authorization: `Bearer ${key}` } : given;
}

async function failure(answer) {
  let problem = {};
  try { problem = await answer.json(); } catch { /* not the gateway's own answer */ }
  return new ApiError(answer.status, problem);
}

/** The URL of a request. Reads name the tenant, if one was chosen. */
function urlOf(method, path) {
  const url = new URL(path, root);
  if (tenant && method === "GET" && /^(queues|ui\/(feed|history))/.test(path)) url.searchParams.set("tenant", tenant);
  return url;
}

/** Sends one request and returns the Response. Throws ApiError. path: without a slash at its start. */
export async function send(method, path, { body, headers, signal } = {}) {
  let answer;
  try {
    answer = await fetch(urlOf(method, path), {
      method, body, signal, headers: headersOf(headers), credentials: "omit", cache: "no-store", redirect: "error",
    });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new ApiError(0, { detail: "the gateway cannot be reached" });
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

/** Sends one request with a JSON body, if there is one, and returns the JSON of the answer; null if it has none. */
export async function call(method, path, value) {
  const json = value === undefined ? {} : { body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
  const answer = await send(method, path, json);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

export const get = (path) => call("GET", path);
/** The path of a queue. A subscription's name has a `+`. */
export const queuePath = (name, rest = "") => `queues/${encodeURIComponent(name).replace("%2B", "+")}${rest}`;

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The same request as a command. It has $KEY in place of the key, so it can be shown to others. */
export function curl(method, path, { body, type } = {}) {
  const parts = ["curl", "-sS"];
  if (method !== "GET") parts.push("-X", method);
  if (key) parts.push("-H", '"Authorization: Bearer $KEY"');
  if (type) parts.push("-H", quoted(`Content-Type: ${type}`));
  if (body !== undefined) parts.push("--data-binary", quoted(body));
  return [...parts, quoted(urlOf(method, path).href)].join(" ");
}

/** Reads a stream of server-sent events with the key in a header, which EventSource cannot send.
 * Calls `receive(event, data)` for each, with the data as JSON. Returns when the stream ends. Throws ApiError. */
export async function events(path, signal, receive) {
  const answer = await send("GET", path, { headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let event = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      if (data.length) receive(event, JSON.parse(data.join("\n")));
    }
  }
}
