"""Posts each job to an HTTP endpoint: the job's own bytes and type, its attributes as `ce-` headers.

1. No job is taken while nothing listens at the endpoint: after a connection has failed, a connection without a request
   is made first, and the pauses grow.
2. No redirect is followed: the endpoint is what the user named, and nothing else gets the job.
3. Of an answer only the beginning is read, for the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Collection, Sequence
from typing import Final

import httpx

from gateway import __version__
from gateway.client.api import CONNECT_S
from gateway.client.failures import retry_after_s
from gateway.work import signature, verdict
from gateway.work.job import TakenJob
from gateway.work.verdict import ACKED, LONGEST_DELAY_S, Action, WorkVerdict

logger: Final = logging.getLogger(__name__)

_READ_BYTES: Final = 4096
"""Of an answer: more than a reason holds."""
_UNAVAILABLE: Final = frozenset({429, 502, 503, 504})
_GONE: Final = 410
_ACCEPTED: Final = 202


class EndpointRunner:
    """timeout_s: how long an answer may take; 0: no limit. reject_on: statuses that make a job a dead letter.

    secrets: sign each request, if there are any.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        reject_on: Collection[int],
        secrets: Sequence[bytes],
        concurrency: int,
    ) -> None:
        self._url = httpx.URL(url)
        self._timeout_s = timeout_s
        self._reject_on = frozenset({_GONE, *reject_on})
        self._secrets = list(secrets)
        self._http = httpx.AsyncClient(
            headers={"User-Agent": f"kestrel-gateway/{__version__}"},
            verify=ssl.create_default_context() if self._url.scheme == "https" else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._reached = False

    async def obstacle(self) -> WorkVerdict | None:
        """Whether a server listens at the endpoint, unless that is known from the last request."""
        if self._reached:
            return None
        port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        try:
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_connection(self._url.host, port)
        except (OSError, TimeoutError) as exc:
            return _unreached(f"{self._shown}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None

    async def run(self, job: TakenJob, giving_back: asyncio.Event) -> WorkVerdict:
        """See worker.Runner. A request that is ended may have been carried out."""
        request = asyncio.ensure_future(self._post(job))
        asked = asyncio.ensure_future(giving_back.wait())
        try:
            done, _ = await asyncio.wait(
                {request, asked}, timeout=self._timeout_s or None, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            asked.cancel()
            request.cancel()
        if request in done:
            return request.result()
        await asyncio.wait({request})
        if asked in done:
            return WorkVerdict(Action.GIVE_BACK, "given back, because the worker stops")
        return WorkVerdict(
            Action.NACK, f"{self._shown}: no answer within {self._timeout_s:g} s (--timeout)", unavailable=True
        )

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def _shown(self) -> str:
        """The URL without a password."""
        return str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    async def _post(self, job: TakenJob) -> WorkVerdict:
        try:
            async with self._http.stream("POST", self._url, content=job.body, headers=self._headers(job)) as answer:
                self._reached = True
                logger.debug("%s: the endpoint answers %d", job, answer.status_code)
                return self._verdict(answer, await _beginning(answer))
        except httpx.ConnectError as exc:
            self._reached = False
            return _unreached(f"{self._shown}: {exc}")
        except httpx.TransportError as exc:
            self._reached = False
            return WorkVerdict(Action.NACK, f"{self._shown}: {str(exc) or type(exc).__name__}", unavailable=True)

    def _headers(self, job: TakenJob) -> dict[str, str]:
        own = {
            "content-type": job.content_type,
            "kestrel-queue": job.queue,
            "lease-id": job.lease,
            "lease-url": job.lease_url,
            "lease-expires": job.lease_expires,
        }
        if self._secrets:
            identity = signature.webhook_id(job.id, job.body)
            own |= signature.headers(identity, int(time.time()), job.body, self._secrets)
        return {**job.headers, **own}

    def _verdict(self, answer: httpx.Response, beginning: bytes) -> WorkVerdict:
        status = answer.status_code
        if status == _ACCEPTED:
            return WorkVerdict(Action.LEAVE, "the endpoint accepted the job and settles its lease")
        if answer.is_success:
            return ACKED
        if answer.is_redirect:
            target = answer.headers.get("location", "")
            what = f"the redirect to {target[:200]} is not followed" if target else "answer with 2xx, 4xx or 5xx"
            return WorkVerdict(Action.NACK, f"status {status}: {what}", unavailable=True)
        after_s = min(retry_after_s(answer.headers), LONGEST_DELAY_S)
        return WorkVerdict(
            Action.REJECT if status in self._reject_on else Action.NACK,
            verdict.reason(f"status {status}", beginning),
            delay_s=after_s or None,
            unavailable=status in _UNAVAILABLE and status not in self._reject_on,
            pause_s=min(after_s, CONNECT_S),
        )


def _unreached(why: str) -> WorkVerdict:
    """Nothing was sent."""
    return WorkVerdict(Action.GIVE_BACK, why, unavailable=True)


async def _beginning(answer: httpx.Response) -> bytes:
    """At most _READ_BYTES of the body. A whole answer that is short leaves its connection open for the next job."""
    text = b""
    async for chunk in answer.aiter_bytes(_READ_BYTES):
        text += chunk
        if len(text) >= _READ_BYTES:
            break
    return text[:_READ_BYTES]
