// Takes and settles jobs with the client that openapi-generator makes: node consumer.js URL QUEUE KEY COUNT
import assert from "node:assert/strict";
import { Configuration, JobsApi, LeasesApi, type Problem, ProblemFromJSON, QueuesApi, ResponseError } from "./kestrel";

const [url, queue, key, count] = process.argv.slice(2);
const configuration = new Configuration({ basePath: url, accessToken: key });
const jobs = new JobsApi(configuration);
const leases = new LeasesApi(configuration);

/** The next job of a queue and its lease. */
async function take(queue: string, leaseSeconds = 60) {
  const taken = await jobs.leaseJobs({ queue, leaseRequest: { timeout: 20, leaseSeconds } });
  assert(taken.lease, "no job came");
  return { job: taken.jobs[0], lease: taken.lease };
}

/** Whether no job is ready. */
async function empty(queue: string) {
  return (await jobs.leaseJobs({ queue, leaseRequest: { timeout: 0 } })).jobs.length === 0;
}

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
  // A job of JSON, and ack.
  const json = await take(queue);
  assert.deepEqual(json.job.data, { to: "ada@example.org", n: 1 });
  assert.equal(json.job.attempt, 1);
  await leases.ackLease({ lease: json.lease.id });

  // A job of text, then ack it and take the next one in one request: bytes.
  const text = await jobs.nextJob({ queue, timeout: 20 });
  assert(text);
  assert.deepEqual([text.data, text.contentType], ["Grüße an Ada", "text/plain"]);
  const image = await jobs.nextJob({ queue, timeout: 20, ack: text.lease.id });
  assert(image?.dataBase64);
  assert.equal(image.contentType, "image/png");
  assert.deepEqual([...Buffer.from(image.dataBase64, "base64")], [...Array(256).keys()]);

  // Give it back for a second: until then the queue is empty. It comes back as its second attempt.
  const nackRequest = { delay: 1, reason: "the disk is full" };
  const position = await leases.nackLease({ lease: image.lease.id, nackRequest });
  assert(position?.dueAt);
  assert.equal(position.position, "tail");
  assert(await empty(queue));
  const back = await take(queue, 30);
  assert.deepEqual([back.job.id, back.job.attempt], [image.id, 2]);
  const extended = await leases.extendLease({ lease: back.lease.id, extendRequest: { leaseSeconds: 120 } });
  assert(extended.expiresAt > back.lease.expiresAt);
  await leases.rejectLease({ lease: back.lease.id, rejectRequest: { reason: "not an image" } });
  assert.equal((await new QueuesApi(configuration).getDeadLetters({ queue })).items, 1);

  // What is settled cannot be settled in another way.
  assert.equal((await failure(leases.ackLease({ lease: back.lease.id }))).code, "lease-settled");

  // Many jobs, settled in tens.
  const numbers: number[] = [];
  let held: string[] = [];
  while (numbers.length < Number(count)) {
    const { job, lease } = await take(`${queue}-many`);
    numbers.push(job.data.n);
    held.push(lease.id);
    if (held.length === 10) {
      const settled = await leases.settleLeases({ settleRequest: { acks: held } });
      assert(settled.results.every((result) => result.status === 204));
      held = [];
    }
  }
  assert.deepEqual(numbers.sort((a, b) => a - b), [...Array(Number(count)).keys()]);

  // Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
  assert(await empty(`${queue}-many`));
  const first = await jobs.nextJob({ queue: `${queue}-once` });
  assert(first);
  await leases.nackLease({ lease: first.lease.id });
  const once = await jobs.nextJob({ queue: `${queue}-once`, timeout: 20 });
  assert.equal(once?.attempt, 2);
  assert.equal(await jobs.nextJob({ queue: `${queue}-once`, ack: once.lease.id, timeout: 0 }), null);
}

main();
