// Takes and settles jobs with openapi-fetch and the types that openapi-typescript makes: node consumer.js URL QUEUE KEY COUNT
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./kestrel";

const [url, queue, key, count] = process.argv.slice(2);
const gateway = createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${key}` } });

/** The next job of a queue and its lease. */
async function take(queue: string, lease_seconds = 60) {
  const { data, error } = await gateway.POST("/queues/{queue}/leases", {
    params: { path: { queue } },
    body: { timeout: 20, lease_seconds },
  });
  assert(data?.lease, error?.detail ?? "no job came");
  return { job: data.jobs[0], lease: data.lease };
}

/** Whether no job is ready. */
async function empty(queue: string) {
  const { data } = await gateway.POST("/queues/{queue}/leases", { params: { path: { queue } }, body: { timeout: 0 } });
  return data?.jobs.length === 0;
}

async function main() {
  // A job of JSON, and ack.
  const json = await take(queue);
  assert.deepEqual(json.job.data, { to: "ada@example.org", n: 1 });
  assert.equal(json.job.attempt, 1);
  await gateway.POST("/leases/{lease}/ack", { params: { path: { lease: json.lease.id } } });

  // A job of text, then ack it and take the next one in one request: bytes.
  const { data: text } = await gateway.GET("/queues/{queue}/next", {
    params: { path: { queue }, query: { timeout: 20 } },
  });
  assert(text);
  assert.deepEqual([text.data, text.content_type], ["Grüße an Ada", "text/plain"]);
  const { data: image } = await gateway.GET("/queues/{queue}/next", {
    params: { path: { queue }, query: { timeout: 20, ack: text.lease.id } },
  });
  assert(image?.data_base64);
  assert.equal(image.content_type, "image/png");
  assert.deepEqual([...Buffer.from(image.data_base64, "base64")], [...Array(256).keys()]);

  // Give it back for a second: until then the queue is empty. It comes back as its second attempt.
  const { data: position } = await gateway.POST("/leases/{lease}/nack", {
    params: { path: { lease: image.lease.id } },
    body: { delay: 1, reason: "the disk is full" },
  });
  assert(position?.due_at);
  assert.equal(position.position, "tail");
  assert(await empty(queue));
  const back = await take(queue, 30);
  assert.deepEqual([back.job.id, back.job.attempt], [image.id, 2]);
  const path = { lease: back.lease.id };
  const { data: extended } = await gateway.POST("/leases/{lease}/extend", {
    params: { path },
    body: { lease_seconds: 120 },
  });
  assert(extended && extended.expires_at > back.lease.expires_at);
  await gateway.POST("/leases/{lease}/reject", { params: { path }, body: { reason: "not an image" } });
  const { data: letters } = await gateway.GET("/queues/{queue}/dead-letters", { params: { path: { queue } } });
  assert.equal(letters?.items, 1);

  // What is settled cannot be settled in another way.
  const { error } = await gateway.POST("/leases/{lease}/ack", { params: { path } });
  assert.equal(error?.code, "lease-settled");

  // Many jobs, settled in tens.
  const numbers: number[] = [];
  let held: string[] = [];
  while (numbers.length < Number(count)) {
    const { job, lease } = await take(`${queue}-many`);
    numbers.push((job.data as { n: number }).n);
    held.push(lease.id);
    if (held.length === 10) {
      const { data: settled } = await gateway.POST("/leases/settle", { body: { acks: held } });
      assert(settled?.results.every((result) => result.status === 204));
      held = [];
    }
  }
  assert.deepEqual(numbers.sort((a, b) => a - b), [...Array(Number(count)).keys()]);

  // Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
  assert(await empty(`${queue}-many`));
  const first = await take(`${queue}-once`);
  await gateway.POST("/leases/{lease}/nack", { params: { path: { lease: first.lease.id } } });
  const once = await take(`${queue}-once`);
  assert.equal(once.job.attempt, 2);
  const none = await gateway.GET("/queues/{queue}/next", {
    params: { path: { queue: `${queue}-once` }, query: { ack: once.lease.id, timeout: 0 } },
  });
  assert.equal(none.response.status, 204);
}

main();
