"""What is ready to use: the alerts with their tests, the dashboard, and the autoscaler's configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.api.keyring import Keyring
from tests.api.test_leases import take
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import ROOT, running
from tests.lab.waiting import until

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ALERT_TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
KEDA = ROOT / "deploy" / "keda" / "scaledobject.yaml"
SUFFIX = re.compile(r"_(?:bucket|count|sum)$")


def promtool(*arguments: str | Path, text: str = "") -> str:
    """What promtool prints. Fails if it finds a mistake; skips where it is not installed."""
    if shutil.which("promtool") is None:
        reason = "promtool is not installed; .ci/install/prometheus.sh installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def documented() -> dict[str, set[str]]:
    """The labels of each metric of docs/monitoring.md, which another test compares with the code."""
    table = (ROOT / "docs" / "monitoring.md").read_text().split("<!-- metrics -->")[1]
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]*) \|", table, re.MULTILINE)
    return {name: {*re.findall(r"`([a-z]+)`", labels)} for name, labels in rows}


def expressions() -> Iterator[str]:
    """Every expression of the dashboard and of the alerts, with values in the place of Grafana's variables."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield re.sub(r"\$[a-z]+\b", ".*", target["expr"].replace("$__rate_interval", "5m"))
    for rule in rules():
        yield rule["expr"]


def test_the_alerts_pass_their_tests() -> None:
    """promtool reads the rules, and its tests see each alert fire when it should, not before, and resolve."""
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", ALERT_TESTS)


def test_each_alert_is_tested_and_explained() -> None:
    """Its tests expect it to fire and to be silent later; docs/monitoring.md has a row for it, with the time that its
    condition must hold, and it leads there."""
    cases: dict[str, list[bool]] = {}
    for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]:
        for case in sorted(test["alert_rule_test"], key=lambda each: int(each["eval_time"].rstrip("m"))):
            cases.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))
    rows = re.findall(
        r"^\| `(Kestrel[A-Za-z]+)` \|.*\| (\d+) min \|[^|]*\|$",
        (ROOT / "docs" / "monitoring.md").read_text(),
        re.MULTILINE,
    )
    explained = {name: f"{minutes}m" for name, minutes in rows}
    assert explained == {rule["alert"]: rule["for"] for rule in rules()}
    for rule in rules():
        if "tenant" in rule["expr"]:
            assert "$labels.tenant" in rule["annotations"]["summary"], rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert all(rule["annotations"]["runbook_url"].endswith("/docs/monitoring.md#alerts") for rule in rules())
    assert set(cases) == set(names) == set(explained)
    for name, fires in cases.items():
        assert True in fires, name
        assert not fires[-1] or name == "KestrelBrokerDiskNearlyFull", name  # one of its two disks stays full


def test_every_expression_uses_metrics_and_labels_that_exist(tmp_path: Path) -> None:
    """Of the dashboard and of the alerts: promtool can parse it, each metric is documented, and has the labels."""
    known = documented()
    found = list(expressions())
    assert len(found) > 30
    recorded = [{"record": f"checked:{number}", "expr": expr} for number, expr in enumerate(found)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": recorded}]}))
    promtool("check", "rules", file)
    for expr in found:
        metrics = set(re.findall(r"\b(?:kestrel_gateway|process)_[a-z_]+", expr))
        assert metrics or expr.startswith("up{"), expr
        for metric in metrics:
            assert metric in known or SUFFIX.sub("", metric) in known, expr
        for metric, matchers in re.findall(r"\b((?:kestrel_gateway|process)_[a-z_]+)\{([^}]*)\}", expr):
            labels = {*re.findall(r"([a-z]+)[=!]~?", matchers)} - {"instance"}
            assert labels <= known.get(metric, known.get(SUFFIX.sub("", metric), set())), expr
        for grouped in re.findall(r"\b(?:by|without) \(([a-z, ]+)\)", expr):
            allowed = set().union(*(known.get(each, known.get(SUFFIX.sub("", each), set())) for each in metrics))
            assert {*grouped.split(", ")} <= allowed | {"le", "instance"}, expr


def test_promtool_finds_nothing_wrong_with_the_metrics(http: httpx.Client) -> None:
    """Names, types, help and units follow Prometheus' conventions."""
    assert http.post("/queues/checked/jobs", json=1).status_code == 201
    assert http.post(take(http, "checked")["lease"]["url"] + "/ack").status_code == 204
    until(lambda: "kestrel_gateway_queue_items{" in http.get("/metrics").text, within_s=60)
    assert promtool("check", "metrics", text=http.get("/metrics").text) == ""


def test_the_autoscaler_gets_the_backlog_or_an_error(tmp_path: Path) -> None:
    """As KEDA's metrics-api scaler asks: the backlog, 0 for a queue that does not exist, 503 while a server is down."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("all")
    ring.add("keda", scopes="observe")
    documents = {each["kind"]: each for each in yaml.safe_load_all(KEDA.read_text())}
    (trigger,) = documents["ScaledObject"]["spec"]["triggers"]
    parsed = urllib.parse.urlsplit(trigger["metadata"]["url"])
    assert (trigger["type"], trigger["metadata"]["authMode"]) == ("metrics-api", "bearer")
    assert documents["TriggerAuthentication"]["spec"]["secretTargetRef"][0]["parameter"] == "token"
    with BrokerProcess(tmp_path / "a") as one, BrokerProcess(tmp_path / "b") as other:
        servers = ("--kestrel", one.address, "--kestrel", other.address, "--keys", str(ring.path))
        with running(tmp_path / "data", *servers) as gateway, gateway.client() as http:

            def asked() -> httpx.Response:
                return http.get(f"{parsed.path}?{parsed.query}", headers=ring.bearer("keda"))

            assert asked().json()[trigger["metadata"]["valueLocation"]] == 0
            for number in range(6):
                assert http.post("/queues/emails/jobs", json=number, headers=ring.bearer("all")).status_code == 201
            held = http.get("/queues/emails/next", headers=ring.bearer("all"))
            assert held.status_code == 200
            assert asked().json()[trigger["metadata"]["valueLocation"]] == 6
            other.kill()
            until(lambda: asked().status_code == 503, within_s=30)
            assert asked().json()["code"] == "backend-unavailable"
            assert http.get(parsed.path, headers=ring.bearer("keda")).status_code == 200
