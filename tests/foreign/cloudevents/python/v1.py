"""The CloudEvents SDK for Python, version 1, with requests as its documents show: each mode in and out of a queue.

python v1.py http://127.0.0.1:8080/queues/events
"""

import sys

import requests
from cloudevents.http import CloudEvent, from_http, to_binary, to_structured

QUEUE = sys.argv[1]
# Strings are written as JSON by this version, whatever their type: text is given as bytes.
SENT = {
    "json": ({"datacontenttype": "application/json"}, {"user": "ada", "n": 1.5}),
    "text": ({"datacontenttype": "text/plain"}, b"line one\nline two"),
    "bytes": ({"datacontenttype": "application/octet-stream"}, b"\x00\xff\n"),
}
RECEIVE = {
    "structured": ({"Accept": "application/cloudevents+json"}, {}),
    "binary": ({}, {"format": "raw"}),
}


def receive(mode: str, kind: str) -> CloudEvent:
    headers, query = RECEIVE[mode]
    answer = requests.get(f"{QUEUE}/next", headers=headers, params={"timeout": 5} | query, timeout=20)
    assert answer.status_code == 200, answer.text
    acked = requests.post(requests.compat.urljoin(QUEUE, answer.headers["Location"]) + "/ack", timeout=20)
    assert acked.status_code == 204, acked.text
    as_it_is = (lambda data: data) if kind == "bytes" else None
    return from_http(dict(answer.headers), answer.content, data_unmarshaller=as_it_is)


for kind, (extra, data) in SENT.items():
    for sender, convert in (("binary", to_binary), ("structured", to_structured)):
        for receiver in RECEIVE:
            attributes = {"source": "/web", "type": "org.example.signup", "subject": "ada", "ourlevel": "gold"} | extra
            sent = CloudEvent(attributes, data)
            headers, body = convert(sent)
            answer = requests.post(f"{QUEUE}/jobs", headers=headers, data=body, timeout=20)
            assert answer.status_code == 201, answer.text
            got = receive(receiver, kind)
            for name in ("id", "source", "type", "subject", "time", "ourlevel", "datacontenttype"):
                assert got[name] == sent[name], (name, got[name], sent[name])
            payload = got.data.encode() if isinstance(got.data, str) else got.data
            assert payload == data, (got.data, data)
            print(sender, receiver, kind)
