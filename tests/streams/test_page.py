"""The programs on the page about streams run as they are printed."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.waiting import until
from tests.streams.test_stream import put

PAGE = Path(__file__).resolve().parents[2] / "docs" / "streams.md"


def shown(name):
    block = PAGE.read_text().split(f"<!-- {name} -->")[1]
    return re.fullmatch(r"\s*```\w+\n(.*)```\s*", block, re.DOTALL)[1]


def needed(program, script):
    """Its path; the test is skipped without it, and fails in CI."""
    if (path := shutil.which(program)) is None:
        reason = f"{program} is not installed ({script})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def test_reasons_are_those_of_the_code():
    """The page names every reason of an `end` that is no error code."""
    code = (PAGE.parents[1] / "gateway" / "delivery" / "streams" / "end.py").read_text()
    reasons = set(re.findall(r'StreamEnd\(\s*"([a-z-]+)"', code)) | {"draining"}
    rows = set(re.findall(r"^\| `([a-z-]+)` \| ", PAGE.read_text().split("`reason` of the")[1], re.MULTILINE))
    assert rows == reasons - {"client-gone"}


@pytest.mark.slow
def test_the_consumer_in_shell_acks_what_it_has_processed(gateway, http, tmp_path):
    """Ten lines of bash with curl and jq; `process` is the user's command."""
    needed("jq", ".ci/install/jq.sh")
    program = 'process() { jq -c .data >>"$SEEN"; }\n' + shown("consumer")
    seen = tmp_path / "seen"
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "bash", "-c", program],
        env={"PATH": os.environ["PATH"], "GATEWAY": gateway.url, "SEEN": str(seen)},
        start_new_session=True,
    ) as consumer:
        try:
            put(http, "emails", 1, {"two": 2}, "three")
            until(lambda: http.get("/queues/emails").json()["backlog"] == 0, within_s=30)
            assert seen.read_text().splitlines() == ["1", '{"two":2}', '"three"']
        finally:
            os.killpg(consumer.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_page_reads_the_stream_with_fetch(gateway, http, tmp_path):
    """The program for a page, in Node; a key goes in a header."""
    node = needed("node", ".ci/install/clients.sh")
    put(http, "emails", 7)
    script = tmp_path / "page.mjs"
    script.write_text('const key = "k";\n' + shown("page").replace("http://127.0.0.1:8080", gateway.url))
    with subprocess.Popen([node, script], stdout=subprocess.PIPE, text=True) as page:
        try:
            number, lease = page.stdout.readline().split()
            assert number == "7"
            assert http.post(f"/leases/{lease}/ack").status_code == 204
        finally:
            page.kill()
