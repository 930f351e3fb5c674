"""Where a message ends, and which heads are refused: values only."""

import pytest

from gateway.errors import BadFraming
from gateway.http.framing import CHUNKED, BlankLine, framing

HOST = (b"host", b"a")


@pytest.mark.parametrize("cut", range(1, 12))
def test_blank_line_is_found_across_any_cut(cut: int) -> None:
    """The end is the same whether the bytes come whole or in pieces of any size."""
    stream = b"a\r\nb\r\n\rc\r\n\r\nnext"
    finder, taken = BlankLine(), 0
    for start in range(0, len(stream), cut):
        end = finder.end_in(stream[start : start + cut])
        if end:
            taken = start + end
            break
    assert stream[:taken] == b"a\r\nb\r\n\rc\r\n\r\n"


def test_blank_line_starts_anew_after_each_end() -> None:
    """The line ends of one message are not counted for the next."""
    finder = BlankLine()
    assert finder.end_in(b"a\r\n\r\n") == 5
    assert finder.end_in(b"\r\nb") == 0
    assert finder.end_in(b"\r\n\r\nc") == 4


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [HOST], (0, False)),
        ("1.0", [], (0, False)),
        ("1.1", [HOST, (b"content-length", b"12")], (12, False)),
        ("1.1", [(b"transfer-encoding", b"Chunked"), HOST], (CHUNKED, False)),
        ("1.1", [HOST, (b"expect", b"100-Continue"), (b"content-length", b"3")], (3, True)),
        ("1.0", [HOST, (b"expect", b"100-continue"), (b"content-length", b"3")], (3, False)),
        ("1.1", [HOST, (b"expect", b"something")], (0, False)),
        ("1.1", [HOST, (b"expect", b"100-continue-later")], (0, False)),
        ("1.1", [HOST, (b"expect", b"something;a=b ,\t100-Continue"), (b"content-length", b"3")], (3, True)),
        ("1.1", [HOST, (b"expect", b"something"), (b"expect", b"100-continue")], (0, True)),
    ],
)
def test_framing_is_read(version: str, headers: list[tuple[bytes, bytes]], expected: tuple[int, bool]) -> None:
    """Length and expectation of what is clear."""
    assert framing(version, b"/", headers) == expected


@pytest.mark.parametrize(
    ("version", "target", "headers"),
    [
        ("0.9", b"/", [HOST]),
        ("2.0", b"/", [HOST]),
        ("1.1", b"/", []),
        ("1.1", b"/", [HOST, HOST]),
        ("1.0", b"/", [HOST, HOST]),
        ("1.1", b"/a#b", [HOST]),
        ("1.1", b"http://b/", [HOST]),
        ("1.1", b"/", [HOST, (b"content-length", b"1"), (b"content-length", b"1")]),
        ("1.1", b"/", [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        ("1.1", b"/", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        ("1.1", b"/", [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")]),
        ("1.0", b"/", [HOST, (b"transfer-encoding", b"chunked")]),
    ],
)
def test_ambiguous_heads_are_refused(version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """What two readers could read in two ways is refused."""
    with pytest.raises(BadFraming):
        framing(version, target, headers)
