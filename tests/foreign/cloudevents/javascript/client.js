// The CloudEvents SDK for JavaScript with its own transport and with axios, as its documents show:
// each mode in and out of a queue.
//
//     node client.js http://127.0.0.1:8080/queues/events

const assert = require("node:assert");
const axios = require("axios");
const { CloudEvent, HTTP, Mode, emitterFor, httpTransport } = require("cloudevents");

const queue = process.argv[2];
const kinds = {
  json: { datacontenttype: "application/json", data: { user: "ada", n: 1.5 } },
  text: { datacontenttype: "text/plain", data: "line one\nline two" },
  bytes: { datacontenttype: "application/octet-stream", data: new Uint8Array([0, 255, 10]) },
};
const receivers = {
  structured: { url: `${queue}/next?timeout=5`, headers: { Accept: "application/cloudevents+json" } },
  binary: { url: `${queue}/next?timeout=5&format=raw`, headers: {} },
};
const senders = {
  binary: emitterFor(httpTransport(`${queue}/jobs`)),
  structured: emitterFor(httpTransport(`${queue}/jobs`), { mode: Mode.STRUCTURED }),
  "binary-axios": (event) => post(HTTP.binary(event)),
  "structured-axios": (event) => post(HTTP.structured(event)),
  batch: (event) =>
    post({ headers: { "content-type": "application/cloudevents-batch+json" }, body: JSON.stringify([event]) }),
};

async function post({ headers, body }) {
  await axios.post(`${queue}/jobs`, body, { headers });
}

async function receive({ url, headers }) {
  const answer = await axios.get(url, { headers, responseType: "arraybuffer" });
  assert.strictEqual(answer.status, 200);
  await axios.post(new URL(answer.headers.location, queue).href + "/ack");
  const bytes = answer.headers["content-type"] === "application/octet-stream";
  return HTTP.toEvent({ headers: { ...answer.headers }, body: bytes ? answer.data : answer.data.toString() });
}

async function main() {
  for (const [kind, payload] of Object.entries(kinds)) {
    for (const [sender, send] of Object.entries(senders)) {
      for (const [receiver, request] of Object.entries(receivers)) {
        const sent = new CloudEvent({
          source: "/web", type: "org.example.signup", subject: "ada", ourlevel: "gold", ...payload,
        });
        await send(sent);
        const got = await receive(request);
        for (const name of ["id", "source", "type", "subject", "time", "ourlevel", "datacontenttype"]) {
          assert.strictEqual(got[name], sent[name], name);
        }
        if (kind === "bytes") {
          assert.deepStrictEqual([...got.data], [...sent.data]);
        } else {
          assert.deepStrictEqual(got.data, sent.data);
        }
        console.log(sender, receiver, kind);
      }
    }
  }
}

main().catch((error) => {
  console.error(error.response ? String(error.response.data) : error);
  process.exit(1);
});
