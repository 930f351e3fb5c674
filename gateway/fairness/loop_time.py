"""How much time of the event loop each tenant uses, and when a tenant that has used more than its share may continue.

1. The time of work on the event loop is charged to the tenant that caused it.
2. A tenant that uses more than SHARE of the time pauses while another tenant that uses less sends requests: after each
   piece of work it pauses until work and pause together took work / SHARE. Then the loop is free for the other tenant,
   whose requests need several turns of it each.
3. Tenants that all use more than SHARE do not pause for each other; they take turns. A tenant that is alone never
   pauses, and neither does one that uses little: it may save up BURST_S.
4. Callers without a tenant count as one tenant, for which no other tenant pauses: a load balancer's probes slow
   nothing. Requests that are refused before their tenant is known have an account of their own, REFUSED, and use at
   most REFUSED_SHARE: they delay no probe.
Source of 2: a token bucket of time; Turner, "New directions in communications" (1986).
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

T = TypeVar("T")

SHARE: Final = 0.25
REFUSED: Final = "\0refused"
REFUSED_SHARE: Final = 0.1
BURST_S: Final = 0.04
LATELY_S: Final = 1.0
BYTE_S: Final = 3e-9
"""The charge for a byte of a large body or item on its way between the socket and its request: 3 ms per MiB.

Measured: 1 to 2 ms. The rest makes up for what arrives before the tenant pauses.
"""
LONGEST_PAUSE_S: Final = 0.25
"""A single piece of work delays its tenant at most this long, even if it was far too long."""


class LoopTime:
    """The accounts of all tenants. clock: seconds, monotonic.

    tenanted: whether the deployment has tenants. Without them nothing is measured, and no caller pauses.
    """

    __slots__ = ("_clock", "_free_at_s", "_last", "_last_s", "_other_s", "tenanted")

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, tenanted: bool = True) -> None:
        self._clock = clock
        self.tenanted = tenanted
        self._free_at_s: dict[str, float] = {}
        # Of tenants that use less than SHARE: the tenant of the last request and its time, and the time of the last
        # request of another one.
        self._last = ""
        self._last_s = self._other_s = float("-inf")

    def asked(self, tenant: str) -> None:
        """The tenant sent a request."""
        if not tenant or tenant == REFUSED:
            return
        now_s = self._clock()
        if self._free_at_s.get(tenant, 0.0) > now_s:
            return
        if tenant != self._last:
            self._other_s = self._last_s
            self._last = tenant
        self._last_s = now_s

    def shared(self, tenant: str) -> bool:
        """Whether another tenant that uses less than SHARE has sent a request recently."""
        other_s = self._other_s if tenant == self._last else self._last_s
        return other_s > self._clock() - LATELY_S

    def charge(self, tenant: str, used_s: float) -> None:
        """The tenant has used `used_s` of the loop's time, until now."""
        if self.tenanted:
            self._charge(tenant, used_s, self._clock())

    def _charge(self, tenant: str, used_s: float, now_s: float) -> None:
        share = REFUSED_SHARE if tenant == REFUSED else SHARE
        free_at_s = max(self._free_at_s.get(tenant, 0.0), now_s - used_s - BURST_S) + used_s / share
        self._free_at_s[tenant] = min(free_at_s, now_s + LONGEST_PAUSE_S)

    def charge_bytes(self, tenant: str, count: int) -> None:
        """`count` bytes were transferred for the tenant, outside the steps that are charged to it."""
        self.charge(tenant, count * BYTE_S)

    def pause_s(self, tenant: str) -> float:
        """How long the tenant must pause from now on; 0 if it may continue."""
        free_at_s = self._free_at_s.get(tenant)
        if free_at_s is None or not self.shared(tenant):
            return 0.0
        return max(0.0, free_at_s - self._clock())

    def may_go_on(self, tenant: str) -> bool:
        """Whether the tenant need not pause."""
        return self.pause_s(tenant) == 0.0

    def charged(
        self, work: Coroutine[Any, Any, T], tenant: Callable[[], str], before_s: float = 0.0
    ) -> Coroutine[Any, Any, T]:
        """Does the work. Each step is charged to the tenant that `tenant` returns after the step; the first step is
        charged `before_s` more."""
        return self._charged(work, tenant, before_s) if self.tenanted else work

    @types.coroutine
    def _charged(
        self, work: Coroutine[Any, Any, T], tenant: Callable[[], str], before_s: float
    ) -> Generator[Any, Any, T]:
        """Passes everything on to the work, and measures the time of each step."""
        clock = self._clock
        failed: BaseException | None = None
        while True:
            began_s = clock()
            try:
                waits_for = work.send(None) if failed is None else work.throw(failed)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                failed = None  # its traceback has this frame
                now_s = clock()
                self._charge(tenant(), now_s - began_s + before_s, now_s)
                before_s = 0.0
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 (it is the work's)
                failed = error
