"""The broker's memcache protocol: the same commands however the bytes are cut, never more memory than it says."""

from __future__ import annotations

from gateway.broker.memcache.codec import CLIENT_ERROR, MAX_LINE_BYTES, Command, Decoder, Foreign, Refused

MAX_ITEM = 4096
PROXY_V2 = b"\r\n\r\n\x00"
SEEDS = [
    b"\x05set q 0 0 5\r\nhello\r\nget q/open/t=10\r\nconfirm q 1\r\n",
    b"\x01set q 0 1795418892 2 noreply\r\n\xff\x00\r\nmonitor q 1 5\r\n",
    b"\x09get a//peek\r\nflush q\r\ndelete q \r\nflush_expired q\r\nstatus ReadOnly\r\n",
    b"\x02dump_stats a b\r\ndump_stats\r\nSTATS\nversion\r\nquit\r\n",
    b"\x03set q 0 999999999999999999 1\r\n1\r\nset q -1 -5 99999999999\r\nget q/t=-99999999999\r\n",
    b"\x07GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x04\x80\x00\x00\x01",
    b"\x01\r\n\r\n\x00e",
]


def one(data: bytes) -> None:
    """The first byte says how the rest is cut."""
    size, text = (data[0] + 1, data[1:]) if data else (1, b"")
    whole = _commands([text])
    cut = _commands([text[start : start + size] for start in range(0, len(text), size)])
    if text.startswith(PROXY_V2) and isinstance(cut[0], Refused):  # cut behind its first line, it is an empty command
        assert [type(each) for each in whole] == [Foreign]
        assert cut == [Refused(CLIENT_ERROR, close=True)]
    else:
        assert whole == cut, (whole, cut)


def _commands(pieces: list[bytes]) -> list[Command]:
    decoder = Decoder(MAX_ITEM)
    found: list[Command] = []
    for piece in pieces:
        decoder.feed(piece)
        while (command := decoder.next()) is not None:
            found.append(command)
        assert decoder.buffered <= max(MAX_LINE_BYTES, MAX_ITEM) + 2 + len(piece)
    return found
