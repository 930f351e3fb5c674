"""Orders between workers: over real sockets, to the owner only, in time or not at all."""

import asyncio
import json
import select
import socket
import time

import pytest

from gateway.errors import Internal, LeaseConflict, LeaseForgotten, OutcomeUnknown, OwnerUnavailable, error_classes
from gateway.forwarding.commands import LeaseCommand, Verb, pack_command, pack_result, unpack_result
from gateway.forwarding.workers import WorkerLinks, WorkerServer, is_alive
from gateway.leases.lease import LeaseRecord, Place, State
from gateway.problem import problem_bytes, problem_headers
from tests.lab.shortage import no_free_descriptors

OWNER, OTHER = "aa" * 8, "bb" * 8
VIEW = LeaseRecord("lease", "q", None, 1, 1.5, State.ACKED)


def order(limit_s: float = 5.0) -> LeaseCommand:
    return LeaseCommand(Verb.ACK, "lease", time.monotonic() + limit_s)


def between(tmp_path, execute, work):
    """Runs `work(worker_links)` against a worker server that carries commands out with `execute`."""

    async def go():
        worker_server = WorkerServer(tmp_path, OWNER, execute)
        await worker_server.start()
        worker_links = WorkerLinks(tmp_path, OTHER)
        try:
            await work(worker_links, worker_server)
        finally:
            await worker_links.close()
            await worker_server.close()

    asyncio.run(go())


def test_results_and_errors_come_back_as_they_are(tmp_path):
    """A view, a count and an error travel; a hundred at once find their own answers."""

    async def execute(each):
        await asyncio.sleep(0)
        if each.verb is Verb.NACK:
            return LeaseConflict("it was acked already")
        return 7 if each.verb is Verb.DROP_QUEUE else LeaseRecord(each.subject, "q", None, 1, 1.5, State.ACKED)

    async def work(worker_links, worker_server):
        answers = await asyncio.gather(
            *(worker_links.ask(OWNER, LeaseCommand(Verb.ACK, str(n), time.monotonic() + 5)) for n in range(100))
        )
        assert [each.id for each in answers] == [str(n) for n in range(100)]
        conflict = await worker_links.ask(OWNER, LeaseCommand(Verb.NACK, "x", time.monotonic() + 5))
        assert (type(conflict), conflict.detail) == (LeaseConflict, "it was acked already")
        assert await worker_links.broadcast(LeaseCommand(Verb.DROP_QUEUE, "q", time.monotonic() + 5)) == [7]

    between(tmp_path, execute, work)


KNOWN_TO_0_1 = frozenset(
    """
    BackendRefused BackendUnavailable BadFraming BadRequest BodyTooLarge Draining ForbiddenHost ForbiddenOrigin
    ForbiddenPrefetch ForbiddenQueue ForbiddenScope GatewayError HeadersTooLarge IdempotencyInFlight
    IdempotencyKeyReused Internal InvalidBody InvalidEvent InvalidName InvalidParameter JobTooLarge
    LeaseConflict LeaseExpired LeaseForgotten LeaseGone LeaseLost LeaseNotFound MethodNotAllowed NotFound
    NotSupported OutcomeUnknown PartlyRefused PartlyStored QueueDeleted QueueEmpty QueueFull QueueHasChildren
    QueueNotFound RateLimited RequestTimeout ServerNotFound ServerUnavailable TooManyBytes TooManyConnections
    TooManyLeases TooManyQueues TooManyWaiters Unauthenticated Unavailable UnsupportedEncoding UnsupportedType
    """.split()  # noqa: SIM905 (one line a name is longer)
)


@pytest.mark.parametrize("name", sorted(error_classes()))
def test_each_error_has_its_status_at_a_replica_of_version_0_1(name):
    """That version reads a class and a detail; a class that it does not know would be a 500."""
    known = error_classes()
    error = known[name]("why")
    content = json.loads(pack_result(1, error))["result"]
    assert content["error"] in KNOWN_TO_0_1
    assert (known[content["error"]].status, content["detail"]) == (error.status, "why")
    _, again = unpack_result(pack_result(1, error))
    assert type(again) is type(error)


def test_an_error_of_version_0_1_is_read():
    """It is a class and a detail; without a known class it is a 500."""
    for name, expected in (("LeaseForgotten", LeaseForgotten), ("Nothing", Internal)):
        _, error = unpack_result(json.dumps({"n": 1, "result": {"error": name, "detail": "why"}}).encode())
        assert (type(error), error.detail) == (expected, "why")


def test_an_error_of_a_newer_version_is_passed_on_as_it_is(tmp_path):
    """Code, status, title and what they say of a retry reach the client, also through another worker."""
    newer = {
        "error": "LeaseConflict", "detail": "why", "code": "lease-frozen", "status": 423, "title": "Frozen",
        "retryable": True, "retry_after_s": 7,
    }  # fmt: skip
    _, received = unpack_result(json.dumps({"n": 1, "result": newer}).encode())

    async def execute(_):
        return received

    async def work(worker_links, worker_server):
        error = await worker_links.ask(OWNER, order())
        body = problem_bytes(error, "id")
        assert json.loads(body) | {"request_id": ""} == {
            "type": "urn:kestrel-gateway:problem:lease-frozen", "title": "Frozen", "status": 423, "detail": "why",
            "code": "lease-frozen", "retryable": True, "request_id": "",
        }  # fmt: skip
        assert (b"retry-after", b"7") in problem_headers(error)

    between(tmp_path, execute, work)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(("place", "target"), [(None, None), (Place.TAIL, Place.TAIL), (Place.HEAD, Place.TAIL)])
def test_a_record_travels_whole(state, place, target):
    """Its state, its place, and whether that is where the job was meant to go."""
    record = LeaseRecord("lease", "q", "job", 2, 1.5, state, place, target)
    _, found = unpack_result(pack_result(7, record))
    assert isinstance(found, LeaseRecord)
    assert found[:7] == record[:7]
    assert (found.as_asked, found.due_at_s) == (record.as_asked, record.due_at_s)


def test_a_dead_owner_is_known_at_once(tmp_path):
    """No socket, or one on which no worker answers: the lease's outcome is unknown."""

    async def work(worker_links, worker_server):
        with pytest.raises(LeaseForgotten):
            await worker_links.ask("cc" * 8, order())
        await worker_links.ask(OWNER, order())
        await worker_server.close()
        with pytest.raises(LeaseForgotten):
            await worker_links.ask(OWNER, order())

    async def execute(each):
        return VIEW

    between(tmp_path, execute, work)


def test_an_owner_that_dies_with_the_order_is_known_at_once(tmp_path):
    """Orders that wait on a connection which ends do not wait for their deadlines."""
    reached = asyncio.Event()

    async def execute(each):
        reached.set()
        await asyncio.Event().wait()

    async def work(worker_links, worker_server):
        began = time.monotonic()
        waiting = asyncio.create_task(worker_links.ask(OWNER, order(30)))
        await reached.wait()
        await worker_server.close()
        with pytest.raises(LeaseForgotten):
            await waiting
        assert time.monotonic() - began < 10

    between(tmp_path, execute, work)


def test_a_frozen_owner_is_given_up_at_the_deadline(tmp_path):
    """No answer by the deadline is an unknown outcome, and the next order is still served."""
    frozen = asyncio.Event()

    async def execute(each):
        if not frozen.is_set():
            frozen.set()
            await asyncio.Event().wait()
        return VIEW

    async def work(worker_links, worker_server):
        with pytest.raises(OutcomeUnknown):
            await worker_links.ask(OWNER, order(0.1))
        assert await worker_links.ask(OWNER, order()) == VIEW

    between(tmp_path, execute, work)


def test_a_worker_that_reads_nothing_is_not_piled_upon(tmp_path):
    """Orders to it wait up to a bound, then they are refused at once, and the memory they take stays bounded."""

    async def go():
        stuck = asyncio.Event()

        async def silent(reader, writer):
            await stuck.wait()
            writer.close()

        server = await asyncio.start_unix_server(silent, tmp_path / f"{OWNER}.sock", limit=1024)
        worker_links = WorkerLinks(tmp_path, OTHER)
        long = LeaseCommand(Verb.ACK, "x" * 60_000, time.monotonic() + 1)
        errors = await asyncio.gather(*(worker_links.ask(OWNER, long) for _ in range(100)), return_exceptions=True)
        assert {type(each) for each in errors} == {OutcomeUnknown, OwnerUnavailable}
        assert 10 < sum(isinstance(each, OwnerUnavailable) for each in errors) < 90
        stuck.set()
        await worker_links.close()
        server.close()

    asyncio.run(go())


def test_a_shortage_of_descriptors_is_not_a_dead_owner(tmp_path):
    """The owner is alive: nothing was sent, the request can be sent again, and a claim of the owner remains its own."""

    async def execute(each):
        return VIEW

    async def work(worker_links, worker_server):
        with no_free_descriptors():
            asked = await asyncio.gather(*(worker_links.ask(OWNER, order()) for _ in range(3)), return_exceptions=True)
            everyone = await worker_links.broadcast(order())
            assert is_alive(tmp_path, OWNER)
        assert [type(each) for each in asked] == [OwnerUnavailable] * 3
        assert [isinstance(each, OSError) for each in everyone] == [True]
        assert await worker_links.ask(OWNER, order()) == VIEW
        assert await worker_links.broadcast(order()) == [VIEW]
        assert not is_alive(tmp_path, "cc" * 8)
        await worker_server.close()
        assert not is_alive(tmp_path, OWNER)

    between(tmp_path, execute, work)


@pytest.mark.parametrize("sent", [b"", b'{"n": 1, "or', pack_command(1, order())])
def test_a_worker_that_is_killed_is_no_error_of_its_siblings(tmp_path, caplog, sent):
    """Its connections end, also within a line; one with an answer that it has not read is reset."""
    answered = asyncio.Event()

    async def execute(_):
        answered.set()
        return VIEW

    async def work(worker_links, worker_server):
        with socket.socket(socket.AF_UNIX) as killed:
            killed.connect(str(tmp_path / f"{OWNER}.sock"))
            killed.sendall(sent)
            if sent.endswith(b"\n"):
                await answered.wait()
                await asyncio.to_thread(select.select, [killed], [], [], 10)
        while worker_server._tasks:  # until it has seen the end
            await asyncio.sleep(0.001)
        assert await worker_links.ask(OWNER, order()) == VIEW

    between(tmp_path, execute, work)
    assert caplog.records == []


def test_an_answer_that_is_cut_off_means_a_dead_owner(tmp_path, caplog):
    """It was killed while it wrote."""

    async def go():
        async def answer(reader, writer):
            await reader.readline()
            writer.write(pack_result(0, VIEW)[:10])
            writer.close()

        server = await asyncio.start_unix_server(answer, tmp_path / f"{OWNER}.sock")
        worker_links = WorkerLinks(tmp_path, OTHER)
        with pytest.raises(LeaseForgotten):
            await worker_links.ask(OWNER, order())
        await worker_links.close()
        server.close()

    asyncio.run(go())
    assert caplog.records == []


def test_an_answer_that_cannot_be_read_is_an_unknown_outcome(tmp_path):
    """The owner is alive, so the job is not on its queue; the next command gets a new connection."""

    async def go():
        answers = [b"no JSON\n", pack_result(0, VIEW)]

        async def answer(reader, writer):
            await reader.readline()
            writer.write(answers.pop(0))
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(answer, tmp_path / f"{OWNER}.sock")
        worker_links = WorkerLinks(tmp_path, OTHER)
        with pytest.raises(OutcomeUnknown, match="no answer can be read"):
            await worker_links.ask(OWNER, order())
        assert await worker_links.ask(OWNER, order()) == VIEW
        await worker_links.close()
        server.close()

    asyncio.run(go())
