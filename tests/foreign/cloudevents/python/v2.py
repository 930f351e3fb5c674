"""The CloudEvents SDK for Python, version 2, with requests: each mode in and out of a queue.

python v2.py http://127.0.0.1:8080/queues/events
"""

import sys

import requests
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

QUEUE = sys.argv[1]
SENT = {
    "json": ({"datacontenttype": "application/json"}, {"user": "ada", "n": 1.5}),
    "text": ({"datacontenttype": "text/plain"}, "line one\nline two"),
    "bytes": ({"datacontenttype": "application/octet-stream"}, b"\x00\xff\n"),
}
RECEIVE = {
    "structured": ({"Accept": "application/cloudevents+json"}, {}),
    "binary": ({}, {"format": "raw"}),
}


def receive(mode: str) -> CloudEvent:
    headers, query = RECEIVE[mode]
    answer = requests.get(f"{QUEUE}/next", headers=headers, params={"timeout": 5} | query, timeout=20)
    assert answer.status_code == 200, answer.text
    acked = requests.post(requests.compat.urljoin(QUEUE, answer.headers["Location"]) + "/ack", timeout=20)
    assert acked.status_code == 204, acked.text
    return from_http_event(HTTPMessage(dict(answer.headers), answer.content))


for kind, (extra, data) in SENT.items():
    for sender, convert in (("binary", to_binary_event), ("structured", to_structured_event)):
        for receiver in RECEIVE:
            attributes = {"source": "/web", "type": "org.example.signup", "subject": "Zoë", "ourlevel": "gold"} | extra
            sent = CloudEvent(attributes, data)
            message = convert(sent)
            answer = requests.post(f"{QUEUE}/jobs", headers=message.headers, data=message.body, timeout=20)
            assert answer.status_code == 201, answer.text
            got = receive(receiver)
            for name, value in sent.get_attributes().items():
                if name != "time":
                    assert got.get_attributes()[name] == value, (name, got.get_attributes())
            assert abs((got.get_time() - sent.get_time()).total_seconds()) < 0.001, (got.get_time(), sent.get_time())
            assert got.get_data() == data, (got.get_data(), data)
            print(sender, receiver, kind)
