"""httpx for http URLs of this machine. Otherwise each of its calls and clients makes a TLS context of its own, which
takes 40 ms of CPU, and looks for proxies in the environment, which takes 2 ms."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final

import httpx

WITHOUT_TLS: Final = ssl.create_default_context()

get = partial(httpx.get, verify=WITHOUT_TLS, trust_env=False)
post = partial(httpx.post, verify=WITHOUT_TLS, trust_env=False)
options = partial(httpx.options, verify=WITHOUT_TLS, trust_env=False)
client = partial(httpx.Client, verify=WITHOUT_TLS, trust_env=False)
async_client = partial(httpx.AsyncClient, verify=WITHOUT_TLS, trust_env=False)
