"""The ledger of idempotency keys against a plain model: several workers, one file, any order of events."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.delivery.idempotency.ledger import MOVES, EntryState, Ledger, Reply
from tests.lab.examples import examples

WORKERS = ("a", "b")
KEYS = st.sampled_from(("k", "l"))
PRINTS = st.sampled_from((b"f", b"g"))


class LedgerMachine(RuleBasedStateMachine):
    """Entries by key: their seed, fingerprint, owner while claimed, and reply once done."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.alive = set(WORKERS)
        self.ledgers = {name: self.open(name) for name in WORKERS}
        self.entries = {}
        self.used = set()

    def open(self, name):
        path = Path(self.directory.name) / "idempotency.db"
        return Ledger(path, name, self.alive.__contains__, window_s=3600, limit=1000, synced=False)

    def teardown(self):
        for ledger in self.ledgers.values():
            self.run(ledger.close())
        self.loop.close()
        self.directory.cleanup()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    @rule(name=st.sampled_from(WORKERS), key=KEYS, fingerprint=PRINTS)
    def claim(self, name, key, fingerprint):
        found = self.run(self.ledgers[name].claim(("", "q", key), fingerprint, 60))
        entry = self.entries.get(key)
        if entry is None:
            assert found.mine
            assert found.fresh
            assert found.seed not in self.used
            self.used.add(found.seed)
            self.entries[key] = {"seed": found.seed, "print": fingerprint, "state": EntryState.CLAIMED, "owner": name}
            return
        held = entry["state"] is EntryState.CLAIMED and entry["owner"] != name and entry["owner"] in self.alive
        mine = entry["print"] == fingerprint and entry["state"] is not EntryState.DONE and not held
        assert (found.seed, found.fingerprint) == (entry["seed"], entry["print"])
        assert (found.mine, found.fresh, found.reply) == (mine, False, entry.get("reply"))
        if mine:
            assert EntryState.CLAIMED in MOVES[entry["state"]]
            entry.update(state=EntryState.CLAIMED, owner=name)

    @rule(name=st.sampled_from(WORKERS), key=KEYS, number=st.integers(0, 3))
    def settle(self, name, key, number):
        """Only the claim's owner can; a former owner changes nothing."""
        reply = Reply(201, b"%d" % number)
        self.run(self.ledgers[name].settle(("", "q", key), reply))
        if self.holds(name, key):
            self.entries[key].update(state=EntryState.DONE, reply=reply)

    @rule(name=st.sampled_from(WORKERS), key=KEYS)
    def leave(self, name, key):
        self.run(self.ledgers[name].leave(("", "q", key)))
        if self.holds(name, key):
            self.entries[key]["state"] = EntryState.UNKNOWN

    @rule(name=st.sampled_from(WORKERS), key=KEYS)
    def release(self, name, key):
        self.run(self.ledgers[name].release(("", "q", key)))
        if self.holds(name, key):
            del self.entries[key]

    @rule(name=st.sampled_from(WORKERS))
    def die(self, name):
        self.alive.discard(name)

    @rule(name=st.sampled_from(WORKERS))
    def reopen(self, name):
        """The file is closed and opened again; the worker lives."""
        self.run(self.ledgers[name].close())
        self.ledgers[name] = self.open(name)
        self.alive.add(name)

    def holds(self, name, key):
        entry = self.entries.get(key)
        return entry is not None and entry["state"] is EntryState.CLAIMED and entry["owner"] == name

    @invariant()
    def a_reply_belongs_to_what_is_done(self):
        assert all(("reply" in entry) == (entry["state"] is EntryState.DONE) for entry in self.entries.values())


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=examples(100), stateful_step_count=30)


def test_a_claim_is_held_only_so_long(tmp_path):
    """A living owner that is too slow loses its claim, and what it says later changes nothing."""

    async def run():
        slow, quick = (
            Ledger(tmp_path / "idempotency.db", name, lambda _: True, window_s=60, limit=10) for name in "ab"
        )
        place = ("", "q", "k")
        first = await slow.claim(place, b"f", -1)
        second = await quick.claim(place, b"f", 60)
        assert (second.seed, second.mine, second.fresh) == (first.seed, True, False)
        await slow.release(place)
        await slow.settle(place, Reply(201, b"slow"))
        await quick.settle(place, Reply(201, b"quick"))
        assert (await slow.claim(place, b"f", 60)).reply == Reply(201, b"quick")
        for each in (slow, quick):
            await each.close()

    asyncio.run(run())
