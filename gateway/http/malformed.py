"""What is wrong with a request that llhttp cannot read, in a sentence that says what is allowed. Pure.

llhttp names the rule of its grammar that failed, such as "Invalid header token".
Source: the messages of llhttp in httptools 0.9.0.
"""

from __future__ import annotations

from typing import Final

_CRLF: Final = "CRLF (a carriage return and a line feed)"

URL: Final = (
    "the request target is not a path such as /queues, or an absolute URL; "
    "percent-encode spaces, control characters and characters beyond ASCII"
)

_SENTENCES: Final = {
    (
        "the request does not begin with a method in upper case, such as GET or POST; "
        "if the client uses https://, the gateway must serve TLS (--ssl-certfile)"
    ): ("Invalid method encountered",),
    "the method is not followed by one space; write the request line as METHOD TARGET HTTP/1.1": (
        "Expected space after method",
    ),
    "the method is not one of HTTP; use one such as GET or POST": (
        "Invalid method for HTTP/x.x request",
        "Expected SOURCE method for ICE/x.x request",
        "Invalid method for RTSP/x.x request",
    ),
    URL: (
        "Invalid char in url path",
        "Invalid char in url query",
        "Invalid char in url fragment start",
        "Invalid characters in url",
        "Unexpected start char in url",
        "Unexpected char in url schema",
        "Unexpected char in url server",
    ),
    "the request target is not followed by HTTP/1.1; write a space in the target as %20": (
        "Expected HTTP/, RTSP/ or ICE/",
    ),
    "the HTTP version of the request line is not supported; use HTTP/1.1": (
        "Invalid HTTP version",
        "Invalid major version",
        "Invalid minor version",
        "Expected dot",
    ),
    "HTTP/2 is not supported; use HTTP/1.1": ("Pause on PRI/Upgrade", "Expected HTTP/2 Connection Preface"),
    f"the request line does not end with {_CRLF} after the version": ("Expected CRLF after version",),
    f"a line of the headers does not end with {_CRLF}; end every line with both": (
        "Expected CRLF",
        "Expected LF after CR",
        "Expected LF after headers",
        "Invalid header field char",
        "Missing expected CR after header value",
        "Missing expected LF after header value",
    ),
    (
        "the name of a header is empty or has a character that is not allowed; "
        "use letters, digits and !#$%&'*+-.^_`|~, and put the colon directly after the name"
    ): ("Invalid header token",),
    "there is white space before the first header; begin each header line with a name": (
        "Unexpected space after start line",
    ),
    "the value of a header continues on the next line; write each header on one line": (
        "Unexpected whitespace after header value",
    ),
    "the value of a header has a control character; remove or encode it": ("Invalid header value char",),
    "Content-Length is not a number of bytes; use only digits": ("Invalid character in Content-Length",),
    "Content-Length is empty; give the number of bytes of the body": ("Empty Content-Length",),
    "Content-Length does not fit into 64 bits; give the number of bytes of the body": ("Content-Length overflow",),
    "Content-Length is given more than once; send it once": ("Duplicate Content-Length",),
    "the Transfer-Encoding is not supported; the only one allowed is chunked": (
        "Empty Transfer-Encoding",
        "Invalid `Transfer-Encoding` header value",
        "Request has invalid `Transfer-Encoding`",
    ),
    "the request has both Content-Length and Transfer-Encoding; send only one of them": (
        "Content-Length can't be present with Transfer-Encoding",
        "Transfer-Encoding can't be present with Content-Length",
    ),
    "the size of a chunk is not a hexadecimal number": ("Invalid character in chunk size",),
    "the size of a chunk does not fit into 64 bits; send smaller chunks": ("Chunk size overflow",),
    f"the size line of a chunk does not end with {_CRLF}": (
        "Expected LF after chunk size",
        "Missing expected CR after chunk extension name",
        "Missing expected CR after chunk extension value",
        "Missing expected CR after chunk size",
    ),
    f"the data of a chunk is not followed by {_CRLF}; the size of the chunk must be the number of bytes of its data": (
        "Expected LF after chunk data",
        "Missing expected CR after chunk data",
    ),
    "a chunk extension has a character that is not allowed; leave chunk extensions out": (
        "Invalid character in chunk extensions",
        "Invalid character in chunk extensions name",
        "Invalid character in chunk extensions quote value",
        "Invalid character in chunk extensions quoted value",
        "Invalid character in chunk extensions value",
        "Invalid quoted-pair in chunk extensions quoted value",
    ),
}
_BY_MESSAGE: Final = {message: sentence for sentence, messages in _SENTENCES.items() for message in messages}


def sentence_for(message: str) -> str:
    """The sentence for a message of llhttp. A message without one, as a later llhttp may have, is a part of it."""
    return _BY_MESSAGE.get(message) or f"this is not an HTTP/1.1 request{': ' if message else ''}{message}"
