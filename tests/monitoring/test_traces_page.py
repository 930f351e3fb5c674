"""The consumers in docs/traces.md, run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.lab.collector import Collector, SpanSeen
from tests.lab.commands import run_process
from tests.lab.gateway import Running, running

PAGE = Path(__file__).parents[2] / "docs/traces.md"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "shop=7"}


def program(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        with running(tmp_path_factory.mktemp("traced") / "data", "--traces", "otlp") as gateway:
            yield gateway


@pytest.fixture
def enqueued(traced: Running, collector: Collector) -> str:
    """The id of the span of a new job on `emails`."""
    before = {each.id for each in collector.spans}
    with traced.client() as http:
        http.post("/queues/emails/jobs", json={"to": "ada"}, headers=CALLER).raise_for_status()
    found: set[str] = set()

    def enough(spans: list[SpanSeen]) -> bool:
        found.update({each.id for each in spans if each.name == "enqueue emails"} - before)
        return len(found) == 1

    collector.wait(enough)
    return found.pop()


def test_a_python_consumer_continues_the_trace(
    traced: Running, collector: Collector, enqueued: str, tmp_path: Path
) -> None:
    """Its span is a child of the enqueue, and the job is acked."""
    export = (
        "from opentelemetry import trace\n"
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "provider = TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))\n"
        "trace.set_tracer_provider(provider)\n"
    )
    environment = os.environ | {"GATEWAY": traced.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    (tmp_path / "consumer.py").write_text(export + program("python"))
    done = run_process([sys.executable, str(tmp_path / "consumer.py")], env=environment)
    assert done.returncode == 0, done.stderr
    spans = collector.wait(lambda spans: {"process emails", "ack emails"} <= {each.name for each in spans})
    processed = next(each for each in spans if each.name == "process emails")
    assert (processed.trace, processed.parent, processed.kind) == (TRACE, enqueued, "CONSUMER")


@pytest.mark.slow  # needs PHP
def test_a_php_consumer_passes_the_trace_on(traced: Running, collector: Collector, enqueued: str) -> None:
    """The service that it calls gets the context of the job."""
    if shutil.which("php") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("php is not installed (.ci/install/php.sh)")
    got: list[dict[str, str]] = []

    class Mailer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mailer)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    mailer = f"http://127.0.0.1:{server.server_address[1]}/send"
    done = subprocess.run(
        ["php", "-r", program("php")],
        env=os.environ | {"GATEWAY": traced.url, "MAILER": mailer},
        capture_output=True,
        text=True,
        timeout=60,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["traceparent"] for each in got] == [f"00-{TRACE}-{enqueued}-01"]
    assert got[0]["tracestate"] == "shop=7"
    collector.wait(lambda spans: any(each.name == "ack emails" and each.links[0][1] == enqueued for each in spans))
