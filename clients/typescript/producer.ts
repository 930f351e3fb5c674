// Enqueues jobs: reads them from standard input, a line of JSON each, and prints their ids.
//
//   npm install && npx tsc
//   echo '{"to": "ada@example.org"}' | QUEUE=emails node dist/producer.js

import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { call, Failed, QUEUE_PATH } from "./gateway.ts";

const GIVE_UP_S = 120;

/** Stores a job, given as JSON, and returns its id. Throws Failed. */
async function enqueue(job: string): Promise<string> {
  // One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
  const headers = { "Idempotency-Key": randomUUID() };
  const options = { json: job, headers, giveUpS: GIVE_UP_S };
  const receipt = await call<{ id: string }>("POST", `${QUEUE_PATH}/jobs`, options);
  return receipt!.id;
}

let number = 0;
try {
  for await (const line of createInterface({ input: process.stdin })) {
    number++;
    console.log(await enqueue(line));
  }
} catch (failed) {
  if (!(failed instanceof Failed)) throw failed;
  console.error(`line ${number} is not enqueued: ${failed.message}`);
  process.exit(1);
}
