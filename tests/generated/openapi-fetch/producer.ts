// Enqueues jobs with openapi-fetch and the types that openapi-typescript makes: node producer.js URL QUEUE KEY COUNT
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./kestrel";

const [url, queue, key, count] = process.argv.slice(2);
const gateway = createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${key}` } });

/** Stores one job, under a key that makes a repeated request harmless. */
async function enqueue(queue: string, body: unknown, idempotencyKey?: string) {
  const header = { "Idempotency-Key": idempotencyKey };
  return await gateway.POST("/queues/{queue}/jobs", { params: { path: { queue }, header }, body });
}

async function main() {
  const { data: receipt } = await enqueue(queue, { to: "ada@example.org", n: 1 });
  assert(receipt?.id);
  assert.equal(receipt.queue, queue);

  const text = { content_type: "text/plain", data: "Grüße an Ada" };
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const image = { content_type: "image/png", data_base64: Buffer.from(bytes).toString("base64") };
  const { data: both } = await gateway.POST("/queues/{queue}/jobs/batch", {
    params: { path: { queue } },
    body: { jobs: [text, image] },
  });
  assert.deepEqual(both?.results?.map((result) => result.status), [201, 201]);

  // The same request sent twice is stored once.
  const first = await enqueue(`${queue}-once`, { n: 1 }, "order-1");
  const again = await enqueue(`${queue}-once`, { n: 1 }, "order-1");
  assert(first.data);
  assert.equal(first.data.id, again.data?.id);
  const other = await enqueue(`${queue}-once`, { n: 2 }, "order-1");
  assert.equal(other.error?.code, "idempotency-key-reused");

  for (let n = 0; n < Number(count); n++) {
    const { error } = await enqueue(`${queue}-many`, { n });
    assert.equal(error, undefined);
  }
}

main();
