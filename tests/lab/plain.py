"""httpx for http URLs. Each of its calls and clients makes a TLS context of its own otherwise: 40 ms of CPU."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final

import httpx

WITHOUT_TLS: Final = ssl.create_default_context()

get = partial(httpx.get, verify=WITHOUT_TLS)
post = partial(httpx.post, verify=WITHOUT_TLS)
options = partial(httpx.options, verify=WITHOUT_TLS)
client = partial(httpx.Client, verify=WITHOUT_TLS)
async_client = partial(httpx.AsyncClient, verify=WITHOUT_TLS)
