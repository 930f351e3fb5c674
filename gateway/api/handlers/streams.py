"""Streams over HTTP: jobs of one queue or of several, as they arrive."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from gateway.api.exchange import Answer, Call
from gateway.api.request.polls import PollRequests, several_queues
from gateway.api.response.stream_lines import StreamWriter, stream_headers, wants_events
from gateway.delivery.caps.caps import Caps
from gateway.delivery.preferred import PreferredReceiver
from gateway.delivery.receive import Receiver
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.delivery.streams.source import QueueSource, QueuesSource, StreamSource
from gateway.delivery.streams.stream import JobStream
from gateway.fairness.turns import Turns
from gateway.leases.registry import Registry
from gateway.settings import Settings


class Streams:
    """Handlers of the paths of streams. tasks: the lifespan's group."""

    def __init__(
        self,
        receiver: Receiver,
        preferred: PreferredReceiver,
        streams: OpenStreams,
        polls: PollRequests,
        *,
        registry: Registry,
        caps: Caps,
        tasks: asyncio.TaskGroup,
        turns: Turns,
        settings: Settings,
    ) -> None:
        self._receiver = receiver
        self._preferred = preferred
        self._streams = streams
        self._polls = polls
        self._registry = registry
        self._caps = caps
        self._tasks = tasks
        self._turns = turns
        self._window_bytes = settings.stream_window_bytes
        self._keepalive_s = settings.stream_keepalive_s
        self._longest_s = settings.max_stream_s

    async def of_queue(self, call: Call) -> Answer:
        poll = self._polls.of_stream(call)
        queue = call.queue()
        source = QueueSource(
            self._receiver,
            self._registry,
            self._caps,
            self._tasks,
            queue=lambda: call.catalog.queue(call.tenant, queue.name),
            lease_s=poll.lease_s,
            at_most_once=poll.at_most_once,
        )
        return await self._stream(call, source, [queue.name], {"lease_seconds": _number(poll.lease_s(queue))})

    async def of_queues(self, call: Call) -> Answer:
        poll = self._polls.of_stream(call)
        names = list(dict.fromkeys(each.name for each in several_queues(call)))
        source = QueuesSource(
            self._preferred,
            lambda: [call.catalog.queue(call.tenant, name) for name in names],
            poll.lease_s,
            at_most_once=poll.at_most_once,
        )
        return await self._stream(call, source, names, {})

    async def _stream(
        self, call: Call, source: StreamSource, names: Sequence[str], opening: dict[str, object]
    ) -> Answer:
        """names: of the queues. opening: what the first line has in addition.

        Raises what the first poll raises; later failures are the reason for the end of the stream."""
        events = wants_events(call.accept)
        window = call.query["window"]
        longest_s = min(self._longest_s, call.query["lifetime"] or math.inf)
        opening = {"window": window, "queues": names, **opening, "lifetime_seconds": _number(longest_s)}
        writer = StreamWriter(
            call.request, call.reservation, events=events, opening=opening, root=call.root, trace=call.context.trace
        )
        stream = JobStream(
            self._streams,
            source,
            writer,
            self._turns,
            holder=call.caller.name,
            window_jobs=window,
            window_bytes=self._window_bytes,
            keepalive_s=self._keepalive_s,
            lifetime_s=longest_s,
            operator=call.caller.sees_deployment,
            permission=lambda: call.check_again(names),
        )
        await stream.begin()
        return Answer(
            200,
            headers=stream_headers(events=events),
            write_body=lambda _: stream.run(),
            on_sent=lambda _: stream.close(),
        )


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
