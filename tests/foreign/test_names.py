"""Queues whose names HTTP cannot express: logged, listed with a flag, and reached once a policy names them."""

import signal
import time

from gateway.delivery.queues.catalog import Catalog
from gateway.names.namespace import Namespace
from tests.foreign.conftest import Wire
from tests.lab.gateway import running
from tests.lab.ports import free_port

ODD = ["shop__hello_world", "UPPER__", "ns:legacy", "-dash", "n" * 65, "dead"]


def test_names_of_memcache_clients_are_flagged(tmp_path):
    """Each is logged once and flagged in the list; `key` in a policy reaches its jobs."""
    port, policies = free_port(), tmp_path / "queues.toml"
    policies.write_text("")
    flags = ("--broker-listen", f"127.0.0.1:{port}", "--queues", str(policies))
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        wire = Wire(port)
        for name in [*ODD, "fine", "fine+child", "fine__dead"]:
            wire.put(name, b"x")
        listed = {queue["queue"]: queue["reachable"] for queue in http.get("/queues").json()["queues"]}
        assert listed == dict.fromkeys(ODD, False) | {"fine": True, "fine+child": True}
        deadline_s = time.monotonic() + 20
        while not all(repr(name) in gateway.log.read_text() for name in ODD):
            assert time.monotonic() < deadline_s, gateway.log.read_text()
            time.sleep(0.1)
        assert gateway.log.read_text().count("HTTP cannot reach it") == len(ODD)
        policies.write_text('[queues.hello-world]\nkey = "shop__hello_world"\n')
        gateway.process.send_signal(signal.SIGHUP)
        while http.get("/queues/hello-world").status_code != 200:
            assert time.monotonic() < deadline_s, gateway.log.read_text()
            time.sleep(0.1)
        wire.put("hello-world", b"where no request looks any more")
        listed = {queue["queue"]: queue["reachable"] for queue in http.get("/queues").json()["queues"]}
        assert (listed["fine"], listed["ns:legacy"]) == (True, False)
        assert "shop__hello_world" not in listed
        both = [queue for queue in http.get("/queues").json()["queues"] if queue["queue"] == "hello-world"]
        assert [queue["reachable"] for queue in both] == [True, False]
        job = http.get("/queues/hello-world/next").json()
        assert job["queue"] == "hello-world"
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204
        wire.close()


def test_a_tenant_s_names_are_its_own():
    """With tenants, what begins with a tenant's name is that tenant's; with a namespace, the rest is others'."""
    tenanted = Catalog(Namespace("", tenanted=True))
    assert tenanted.unreachable_for("shop__a__b") == "shop"
    assert tenanted.unreachable_for("shop__a.b") == "shop"
    for key in ("shop__a", "shop__a__dead", "shop__a+c", "nobody", "__x", "dead__"):
        assert tenanted.unreachable_for(key) is None, key
    prefixed = Catalog(Namespace("ns", tenanted=False))
    assert prefixed.unreachable_for("ns__a__b") == ""
    assert prefixed.unreachable_for("other__a__b") is None
