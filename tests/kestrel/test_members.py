"""Where the servers' addresses come from: flags, a file, names."""

import asyncio

import pytest

from gateway.config.toml_file import MistakesError
from gateway.kestrel.address import Address
from gateway.kestrel.client import Kestrel
from gateway.kestrel.discovery.members import HostName, Members, check, parse_sources, read_file
from gateway.settings import Settings, SettingsError
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client, until


def test_lists_and_repetitions_are_one_thing():
    """`a:1,b:2` and two flags mean the same; what is named twice counts once."""
    expected = (Address("a", 1), Address("b", 2))
    assert (
        parse_sources(["a:1,b:2"]) == parse_sources(["a:1", "b:2"]) == parse_sources(["a:1, b:2,", "a:1"]) == expected
    )
    assert parse_sources(["dns:queues:22133"]) == (HostName("queues", 22133),)


@pytest.mark.parametrize("text", ["", ",", "a", "dns:a", "dns:", "dns:unix:/x", "a:1,b", "a..b:1", "dns:a..b:1"])
def test_bad_members_are_told(text):
    """One line that names what is wrong."""
    with pytest.raises(SettingsError, match="kestrel"):
        parse_sources([text])


@pytest.mark.parametrize(
    "text", ["dns:foo", "dns:a:99999", "dns:unix:/x", "zk:foo", "zk:foo/jobs", "zk:", "zk:unix:/x/jobs"]
)
def test_what_is_wrong_is_named_with_its_prefix_and_its_form(text):
    """Not a part of it that was not written, and not another form's."""
    form = "dns:NAME:PORT" if text.startswith("dns:") else "zk:HOST:PORT"
    with pytest.raises(SettingsError, match=f"^kestrel: '{text}' is not {form}"):
        parse_sources([text])


def test_the_file_is_lines_with_comments_and_every_mistake_is_told(tmp_path):
    """One server a line; a file without any is a mistake, since it would take all of them out."""
    file = tmp_path / "members"
    file.write_text("# ours\na:1\n\n  b:2  # the other\ndns:c:3\n")
    assert read_file(file) == (Address("a", 1), Address("b", 2), HostName("c", 3))
    file.write_text("a:1\nb\nc:x\n")
    with pytest.raises(MistakesError) as told:
        read_file(file)
    assert [mistake.line for mistake in told.value.mistakes] == [2, 3]
    file.write_text("# nobody\n")
    with pytest.raises(MistakesError, match="names no server"):
        read_file(file)
    with pytest.raises(SettingsError, match="kestrel-file"):
        check([], tmp_path / "nosuch")


def test_names_are_looked_up_and_a_failure_keeps_what_was_known():
    """Every address of the name; a name that is not known has none and hurts no other."""

    async def main():
        members = Members(parse_sources(["dns:localhost:22133,dns:no-such-host.invalid:1,a:1"]), None, 60.0)
        assert members.addresses == (Address("a", 1),)
        await members.resolve()
        found = set(members.addresses)
        assert Address("127.0.0.1", 22133) in found
        assert Address("a", 1) in found
        assert all(address.port in (22133, 1) for address in found)
        await members.resolve()
        assert set(members.addresses) == found

    asyncio.run(main())


def test_a_reload_reads_the_file_again(tmp_path):
    """Members come and go with the file; one with mistakes changes nothing; names in it are looked up."""

    async def main():
        file = tmp_path / "members"
        async with StandIn() as one, StandIn() as two:
            file.write_text(one.address + "\n")
            kestrel = Kestrel((), Settings(kestrel_resolve_s=0.1), file)
            await kestrel.start()
            try:
                await until(lambda: kestrel.available)
                file.write_text(f"dns:127.0.0.1:{two.port}\n")
                await kestrel.reload()
                assert kestrel.backends()[0].address == two.address
                await until(lambda: kestrel.available and not one.sessions)
                file.write_text("nonsense\n")
                with pytest.raises(MistakesError):
                    await kestrel.reload()
                assert [backend.address for backend in kestrel.backends()] == [two.address]
                await kestrel.put("q", b"x")
                assert list(two.queues["q"]) == [b"x"]
            finally:
                await kestrel.close()

    asyncio.run(main())


def test_names_that_come_with_a_reload_are_looked_up_again_and_again(tmp_path):
    """Also where there was none at the start."""

    async def main():
        file = tmp_path / "members"
        async with StandIn() as one:
            file.write_text(one.address + "\n")
            kestrel = Kestrel((), Settings(kestrel_resolve_s=0.1), file)
            await kestrel.start()
            try:
                file.write_text(f"dns:localhost:{one.port}\n")
                await kestrel.reload()
                kestrel.set_members([])  # as if the name had stood for others
                await until(lambda: kestrel.available)
            finally:
                await kestrel.close()

    asyncio.run(main())


def test_a_server_that_is_named_twice_is_told(caplog):
    """Two spellings of one server are two members and count everything twice: the log names both, and no other."""

    async def main():
        async with StandIn() as one, StandIn() as two:
            named = [one.address, f"localhost:{one.port}", two.address]
            async with client(*named) as kestrel:
                one.append("q", b"x")
                assert (await kestrel.queue_stats()).queues["q"].items == 2
            return named

    caplog.set_level("WARNING", "gateway.kestrel")
    spellings = asyncio.run(main())[:2]
    (told,) = [record.getMessage() for record in caplog.records]
    assert all(f"at {each} " in told for each in spellings)
    assert "figures count it twice" in told
