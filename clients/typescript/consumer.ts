// Takes jobs from a queue, works on one after the other, and acks them.
//
//   npm install && npx tsc
//   QUEUE=emails node dist/consumer.js
//
// LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
// SIGTERM ends it with exit code 0: at once while it waits for a job, otherwise once its job is acked.

import { setTimeout } from "node:timers/promises";
import { call, Failed, once, QUEUE_PATH, setting, WAIT_S } from "./gateway.ts";

const isWhole = (value: string) => /^[1-9][0-9]{0,8}$/.test(value);
const LEASE_S = Number(setting("LEASE_SECONDS", "60", isWhole, "a whole number of seconds from 1 on"));

interface Job {
  id: string;
  attempt: number;
  data?: { to?: string; seconds?: number } | null; // a string for text; data_base64 for other bytes
  lease: { id: string };
}

/** Your code. Throws if the job failed. A job may come twice: tell by its id. */
async function work(job: Job): Promise<void> {
  const mail = job.data;
  if (!mail?.to) throw new Error("the mail has no address");
  await setTimeout((mail.seconds ?? 0) * 1000); // in place of real work
  console.log(JSON.stringify(mail));
}

/** Works on the job, then acks it, or gives it back with the reason. */
async function handle(job: Job): Promise<void> {
  const lease = `/leases/${job.lease.id}`;
  console.error(`${job.id}: attempt ${job.attempt}`);
  const extending = setInterval(() => extend(lease), (LEASE_S * 1000) / 3);
  let reason: string | undefined;
  try {
    await work(job);
  } catch (error) {
    reason = String(error);
  } finally {
    clearInterval(extending);
  }
  if (reason === undefined) {
    await settle(`${lease}/ack`);
  } else {
    console.error(`${job.id} failed: ${reason}`);
    // The next attempt comes later each time. After the last one the job goes to the dead letters.
    await settle(`${lease}/nack`, { reason, delay: Math.min(2 ** job.attempt, 300) });
  }
}

async function extend(lease: string): Promise<void> {
  try {
    await once("POST", `${lease}/extend`, { json: JSON.stringify({ lease_seconds: LEASE_S }) });
  } catch (failed) {
    console.error(`not extended: ${failed}`);
  }
}

async function settle(path: string, body?: object): Promise<void> {
  try {
    await call("POST", path, { json: body && JSON.stringify(body), giveUpS: LEASE_S });
  } catch (failed) {
    // lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
    console.error(`not settled: ${failed}`);
  }
}

let stopping = false;
let poll = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    stopping = true;
    poll.abort(); // the gateway sees the connection close and gives the poll no job
  });
}

try {
  while (!stopping) {
    poll = new AbortController();
    const path = `${QUEUE_PATH}/next?timeout=${WAIT_S}&lease_seconds=${LEASE_S}`;
    const job = await call<Job>("GET", path, { signal: poll.signal });
    if (job) await handle(job);
  }
} catch (failed) {
  if (failed instanceof Failed) {
    console.error(`stopped: ${failed.message}`);
    process.exitCode = 1;
  } else if (!stopping) {
    throw failed;
  }
}
