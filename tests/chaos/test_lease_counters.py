"""The gateways' ledgers are judged by the storm, too."""

from chaos.lease_counters import imbalances
from tests.lab.gateway import Running


def series(delivered, acked, nacked, still_open, worker=0):
    return (
        f'kestrel_gateway_leases_delivered_total{{worker="{worker}"}} {delivered}\n'
        f'kestrel_gateway_leases_settled_total{{outcome="acked",worker="{worker}"}} {acked}\n'
        f'kestrel_gateway_leases_settled_total{{outcome="nacked",worker="{worker}"}} {nacked}\n'
        f'kestrel_gateway_leases_open{{worker="{worker}"}} {still_open}\n'
    )


def test_each_worker_s_counters_are_judged():
    """One lease too few in one worker is reported, though another worker has one too many; so are missing counters."""
    assert imbalances(series("6.0", "3.0", "2.0", "1.0") + series("1.1e+06", "1.1e+06", "0.0", "0.0", 1)) == []
    (found,) = imbalances(series(6, 3, 2, 1) + series(7, 3, 2, 1, 1))
    assert found == "worker 1 delivered 7 leases, of which 5 have ended and 1 are open"
    assert len(imbalances(series(5, 3, 2, 1) + series(7, 3, 2, 1, 1))) == 2
    assert imbalances("") == ["there are no counters"]


def test_a_gateway_tells_its_counters(gateway: Running, http, queue):
    """What it exports is what is looked for."""
    http.post(f"/queues/{queue}/jobs", json=1)
    assert http.get(f"/queues/{queue}/next?timeout=5").status_code == 200
    text = http.get("/metrics").text
    assert imbalances(text) == []
    wrong = text.replace("leases_delivered_total{", "leases_open{")
    assert imbalances(wrong) != []
