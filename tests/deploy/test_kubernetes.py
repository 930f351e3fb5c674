"""The manifests of deploy/kubernetes/: valid for Kubernetes, with settings of `serve`, and time for the drain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from gateway import cli
from gateway.process.supervisor import BROKER_END_S, END_S
from gateway.settings import Settings
from tests.lab.yaml_text import SafeLoader

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
OF_OTHERS = {"ServiceMonitor"}
"""Kinds that Kubernetes does not have by itself."""


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object, with its file's name."""
    for path in FILES:
        for each in yaml.load_all(path.read_text(), SafeLoader):
            yield str(path.relative_to(FOLDER)), each


def pods() -> list[Any]:
    """The specification of every pod, with its file's name as the test's id."""
    found = []
    for name, each in documents():
        if each["kind"] in {"Deployment", "StatefulSet"}:
            found.append(pytest.param(each["spec"]["template"]["spec"], id=name))
        elif each["kind"] == "Pod":
            found.append(pytest.param(each["spec"], id=name))
    return found


def gateway_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The container of the gateway."""
    (found,) = [each for each in pod.get("initContainers", []) + pod["containers"] if each["name"] == "gateway"]
    return dict(found)


def settings_of(pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What `serve` would run with in that container; the image's own variables come first. Fails for an unknown one."""
    variables = {"KESTREL_GATEWAY_HOST": "0.0.0.0", "KESTREL_GATEWAY_NO_AUTH": "true", "KESTREL_GATEWAY_DATA": "/data"}
    for each in gateway_of(pod)["env"]:
        if "value" in each:
            variables[each["name"]] = each["value"].replace("$(POD_IP)", "10.1.2.3")
    known = cli.known_variables(variables)
    for name, value in variables.items():
        assert name in known
        monkeypatch.setenv(name, value)
    with cli.serve.make_context("serve", [], click.Context(cli.cli, **cli.cli.context_settings)) as context:
        values = dict(context.params)
    values.pop("app")
    return Settings(**values)


@pytest.mark.parametrize("pod", pods())
def test_its_settings_are_accepted(pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are authenticated, or only the pod reaches the gateway; no variable of a Service disturbs them."""
    settings = settings_of(pod, monkeypatch)
    assert not settings.no_auth
    assert settings.keys is not None or settings.listen or settings.host == "127.0.0.1"
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", pods())
def test_it_has_time_to_drain(pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet kills what is left after terminationGracePeriodSeconds, which begins with preStop."""
    settings = settings_of(pod, monkeypatch)
    before = gateway_of(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    needed = float(before[1]) + settings.grace_s + 2 * END_S + BROKER_END_S
    assert pod["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("pod", pods())
def test_it_runs_confined(pod: dict[str, Any]) -> None:
    """As the image's user, without rights, on a read-only root file system; only volumes are written."""
    container = gateway_of(pod)
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 10001
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "/data" in {each["mountPath"] for each in container["volumeMounts"]}


def test_the_base_lists_its_files() -> None:
    """What kustomize builds is what is there."""
    base = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    assert sorted(base["resources"]) == sorted(
        path.name for path in (FOLDER / "base").iterdir() if path.name != "kustomization.yaml"
    )


@pytest.mark.slow  # asks the registry of packages
def test_kubernetes_accepts_them(tmp_path: Path) -> None:
    """Every object fits the published schema of the current release, with no unknown field."""
    checked = []
    for name, each in documents():
        if each["kind"] not in OF_OTHERS:
            checked.append(tmp_path / f"{len(checked)}-{name.replace('/', '-')}")
            checked[-1].write_text(yaml.safe_dump(each))
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [
        uv,
        "tool",
        "run",
        "--from",
        "kubernetes-validate>=1.34",
        "kubernetes-validate",
        "--strict",
        *checked,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(checked) >= 7
