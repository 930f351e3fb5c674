"""A body as a producer may send it: refused with a reason, or stored so that its bytes come back."""

from __future__ import annotations

from fuzz.items import EVENT, shown
from gateway.api.request.cloudevents import MANY, Mode, many_items, one_item, read_heading
from gateway.envelope.read import body_of, unwrap
from gateway.envelope.write import EnqueueContext, Item
from gateway.errors import BadRequest, JobTooLarge, UnsupportedEncoding, UnsupportedType

STAMP = EnqueueContext("/queues/emails", 1_790_000_000.0, tenant="acme")
TYPES = [
    b"",
    b"application/json",
    b"text/plain",
    b"image/png",
    b"application/cloudevents+json",
    b"application/cloudevents-batch+json",
    b"application/x-ndjson",
]
SEEDS = [
    b"\x01[1]",
    b'\x02"text"',
    b"\x03\x00",
    b"\x04" + EVENT % b',"data":[1]',
    b"\x04" + EVENT % b',"datacontenttype":"text/plain","data":"x","expires":"2027-01-01T00:00:00Z"',
    b"\x05[" + EVENT % b"" + b" , " + EVENT % b',"data_base64":"AA=="' + b"]",
    b"\x06[1]\n\n  2\r\n",
    b"\x07ce-type: t\nce-source: s\nce-specversion: 1.0\n\nbody",
    b'\x08ce-id: "\\"%41"\nce-type: t\nce-source: s\nce-specversion: 1.0\ncontent-type: text/plain\n\nbody',
]


def one(data: bytes) -> None:
    """The first byte says which type, or that headers come before the body."""
    kind, body = data[0] % (len(TYPES) + 1) if data else 0, data[1:]
    headers: list[tuple[bytes, bytes]] = []
    if kind < len(TYPES):
        headers = [(b"content-type", TYPES[kind])] if TYPES[kind] else []
    else:
        head, _, body = body.partition(b"\n\n")
        lines = [line.partition(b": ") for line in head.split(b"\n")]
        headers = [(name.lower(), value.replace(b"\0", b"")) for name, _, value in lines]
    try:
        heading = read_heading(headers)
        if heading.mode in MANY:
            found = list(many_items(heading, body, STAMP, lambda: "id", limit=50, limit_bytes=2000))
            items = [each for each in found if isinstance(each, Item)]
        else:
            items = [one_item(heading, body, STAMP, "id")]
    except (BadRequest, JobTooLarge, UnsupportedEncoding, UnsupportedType):
        return
    for item in items:
        job = unwrap(item.data)
        assert job.id == item.id, "what is stored can be read"
        shown(job)
    if heading.mode is Mode.PLAIN:
        assert body_of(unwrap(items[0].data)) == body, "the bytes come back"
