// Enqueues jobs with the client that openapi-generator makes: node producer.js URL QUEUE KEY COUNT
import assert from "node:assert/strict";
import { Configuration, JobsApi, type Problem, ProblemFromJSON, ResponseError } from "./kestrel";

const [url, queue, key, count] = process.argv.slice(2);

/** The problem document with which a call fails. */
async function failure(call: Promise<unknown>): Promise<Problem> {
  try {
    await call;
  } catch (error) {
    if (error instanceof ResponseError) {
      return ProblemFromJSON(await error.response.json());
    }
    throw error;
  }
  throw new Error("the call succeeded");
}

async function main() {
  const jobs = new JobsApi(new Configuration({ basePath: url, accessToken: key }));

  const receipt = await jobs.enqueueJob({ queue, body: { to: "ada@example.org", n: 1 } });
  assert(receipt.id);
  assert.equal(receipt.queue, queue);

  const text = { contentType: "text/plain", data: "Grüße an Ada" };
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const image = { contentType: "image/png", dataBase64: Buffer.from(bytes).toString("base64") };
  const both = await jobs.enqueueJobs({ queue, enqueueRequest: { jobs: [text, image] } });
  assert.deepEqual(both.results?.map((result) => result.status), [201, 201]);

  // The same request sent twice is stored once.
  const once = { queue: `${queue}-once`, idempotencyKey: "order-1" };
  const first = await jobs.enqueueJob({ ...once, body: { n: 1 } });
  const again = await jobs.enqueueJob({ ...once, body: { n: 1 } });
  assert.equal(first.id, again.id);
  const problem = await failure(jobs.enqueueJob({ ...once, body: { n: 2 } }));
  assert.equal(problem.code, "idempotency-key-reused");

  for (let n = 0; n < Number(count); n++) {
    await jobs.enqueueJob({ queue: `${queue}-many`, body: { n } });
  }
}

main();
