// Requests to the gateway, sent again while that can help. Used by producer.ts and consumer.ts.
//
// GATEWAY_URL   where the gateway is (http://127.0.0.1:8080)
// GATEWAY_KEY   the secret of a key, if the gateway asks for one
// QUEUE         the queue (emails)

import { setTimeout } from "node:timers/promises";

export const WAIT_S = 20; // how long a poll waits at the gateway
const TIMEOUT_S = WAIT_S + 10; // longer than the wait: the gateway always answers first

/** The environment variable, or the default if it is absent or empty. Ends the program if it is not valid. */
export function setting(name: string, otherwise: string, valid: (value: string) => boolean, wanted: string): string {
  const value = process.env[name] || otherwise;
  if (valid(value)) return value;
  console.error(`${name}: '${value}' is not ${wanted}`);
  process.exit(1);
}

const isUrl = (value: string) => /^https?:\/\/[^/?#@\s][^?#@\s]*$/.test(value) && URL.canParse(value);
const given = setting("GATEWAY_URL", "http://127.0.0.1:8080", isUrl, "a URL such as http://127.0.0.1:8080");
const url = given.replace(/\/+$/, "");
export const QUEUE_PATH = `/queues/${encodeURIComponent(process.env.QUEUE || "emails")}`;
const key = process.env.GATEWAY_KEY;
if (key && !/^[!-~]+$/.test(key)) {
  console.error("GATEWAY_KEY: a key consists of visible ASCII characters without spaces");
  process.exit(1);
}

/** The gateway did not do it. `code` says why and is stable; the message is for people. */
export class Failed extends Error {
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfterS: number;

  constructor(code: string, detail: string, retryable: boolean, retryAfterS = 0) {
    super(`${code}: ${detail}`);
    this.code = code;
    this.retryable = retryable;
    this.retryAfterS = retryAfterS;
  }
}

export interface Options {
  json?: string; // the body
  headers?: Record<string, string>;
  giveUpS?: number; // no further try after so long
  signal?: AbortSignal; // ends the call at once; it throws an AbortError then
}

/** The JSON body of the answer; undefined if the body is empty. Throws Failed. */
export async function call<T>(method: string, path: string, options: Options = {}): Promise<T | undefined> {
  const giveUp = performance.now() + (options.giveUpS ?? Infinity) * 1000;
  for (let attempt = 0; ; attempt++) {
    try {
      return await once<T>(method, path, options);
    } catch (failed) {
      if (!(failed instanceof Failed)) throw failed;
      // A random pause, longer each time, so that many clients do not come back at the same moment.
      const pauseS = failed.retryAfterS + Math.random() * 0.2 * 2 ** Math.min(attempt, 7);
      if (!failed.retryable || performance.now() + pauseS * 1000 > giveUp) throw failed;
      console.error(`${failed.message}; next try in ${pauseS.toFixed(1)} s`);
      await setTimeout(pauseS * 1000, undefined, { signal: options.signal });
    }
  }
}

/** As call, with a single try. */
export async function once<T>(method: string, path: string, options: Options = {}): Promise<T | undefined> {
  const headers: Record<string, string> = { ...options.headers };
  if (options.json !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Authorization"] = `Bearer ${key}`;
  const signals = [AbortSignal.timeout(TIMEOUT_S * 1000), ...(options.signal ? [options.signal] : [])];
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(url + path, { method, headers, body: options.json, signal: AbortSignal.any(signals) });
    text = await answer.text();
  } catch (error) {
    options.signal?.throwIfAborted();
    throw new Failed("no-answer", String((error as Error).cause ?? error), true);
  }
  if (answer.ok) return text ? (JSON.parse(text) as T) : undefined;
  const retryAfterS = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10) || 0;
  if (answer.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    const problem = JSON.parse(text);
    throw new Failed(problem.code, problem.detail, problem.retryable, retryAfterS);
  }
  // A proxy on the way answered.
  const retryable = [429, 502, 503, 504].includes(answer.status);
  throw new Failed(`http-${answer.status}`, answer.statusText, retryable, retryAfterS);
}
