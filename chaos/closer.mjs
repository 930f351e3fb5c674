// Node's HTTP clients, closing at awkward moments: the same rounds and the same output as closer.py.
import http from "node:http";

const [port, queue, rounds, seed] = process.argv.slice(2).map((each, place) => (place === 1 ? each : Number(each)));
const base = `http://127.0.0.1:${port}`;
const poll = `/queues/${queue}/next?timeout=5&lease=2`;
const AT_ONCE = 8;
const LATEST_MS = 40;
const stored = [];
const acked = [];
let read = 0;
let state = seed + 1;

// mulberry32: as good as needed, and the same for the same seed
function chance() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// fetch, aborted by its signal
async function byFetch(limitMs) {
  try {
    const answer = await fetch(base + poll, { signal: AbortSignal.timeout(Math.max(1, Math.round(limitMs))) });
    return answer.status === 200 ? await answer.text() : null;
  } catch {
    return null;
  }
}

// http.request, its socket destroyed; with `early` as soon as the answer's head is there
function byRequest(limitMs, early) {
  return new Promise((resolve) => {
    const request = http.get(base + poll, { agent: false }, (answer) => {
      if (early) {
        request.destroy();
        resolve(null);
        return;
      }
      let text = "";
      answer.on("data", (piece) => (text += piece));
      answer.on("end", () => resolve(answer.statusCode === 200 && answer.complete ? text : null));
      answer.on("error", () => resolve(null));
      answer.on("close", () => resolve(null));
    });
    request.on("error", () => resolve(null));
    setTimeout(() => {
      request.destroy();
      resolve(null);
    }, limitMs);
  });
}

async function enqueue(number) {
  const answer = await fetch(`${base}/queues/${queue}/jobs`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ number }),
  });
  const job = await answer.json();
  if (answer.status === 201) stored.push(job.id);
}

async function round(number) {
  const waitMs = chance() * LATEST_MS;
  const limitMs = chance() * LATEST_MS * (1 + (number % 2));
  const ways = [byFetch, (ms) => byRequest(ms, false), (ms) => byRequest(ms, true)];
  const enqueued = pause(waitMs).then(() => enqueue(number));
  const text = await ways[number % 3](limitMs);
  if (text) {
    read += 1;
    const job = JSON.parse(text);
    if (chance() < 0.7) {
      const answer = await fetch(`${base}${job.lease.url}/ack`, { method: "POST" });
      if (answer.status === 204) acked.push(job.id);
    }
  }
  await enqueued;
}

let next = 0;
async function work() {
  while (next < rounds) await round(next++);
}
await Promise.all(Array.from({ length: AT_ONCE }, work));
console.log(JSON.stringify({ stored, acked, read }));
