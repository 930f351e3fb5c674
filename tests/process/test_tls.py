"""HTTPS: served with a certificate, and clients asked for one; files that are wrong are refused at the start."""

import contextlib
import http.client as http_client
import shutil
import ssl
import subprocess

import httpx
import pytest

from tests.api.test_jobs import waiters
from tests.lab import plain
from tests.lab.commands import NOWHERE, Commands
from tests.lab.gateway import Running
from tests.lab.waiting import until

command = Commands("http://127.0.0.1:9")
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate for localhost, its key, and a second pair."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


class RunningTls(Running):
    """As Running, over HTTPS; `verify` is what its client trusts and shows."""

    def __init__(self, data, verify, *flags):
        self.verify = verify
        super().__init__(data, *flags)

    def ready(self):
        if "ready: https:" not in self.log.read_text():
            return False
        return httpx.get(self.url + "/readyz", timeout=10, verify=self.verify).status_code == 200


def flags_of(files):
    return "--ssl-certfile", str(files / "server.pem"), "--ssl-keyfile", str(files / "server.key")


def trusting(files, client=""):
    context = ssl.create_default_context(cafile=str(files / "server.pem"))
    if client:
        context.load_cert_chain(files / f"{client}.pem", files / f"{client}.key")
    return context


def test_https_is_served(tmp_path, files):
    """A job goes there and back; the log says https, plain HTTP gets nothing, a vanished poll takes no job, one
    that sends too much is told."""
    gateway = RunningTls(tmp_path / "data", trusting(files), *flags_of(files))
    try:
        assert f"ready: {gateway.url}" in gateway.log.read_text()
        with httpx.Client(base_url=gateway.url, verify=gateway.verify, timeout=30) as http:
            body = b"x" * 500_000
            assert http.post("/queues/q/jobs", content=body, headers={"content-type": "text/plain"}).status_code == 201
            delivery = http.get("/queues/q/next").json()
            assert delivery["data"].encode() == body
            assert http.post(delivery["lease"]["url"] + "/ack").status_code == 204
            assert http.get("/queues", headers={"origin": gateway.url}).status_code == 200
            brief = httpx.Timeout(10, read=0.5)  # the handshake has its time
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(gateway.url + "/queues/q/next?timeout=20", verify=gateway.verify, timeout=brief)
            until(lambda: waiters(http, "q") == 0)  # the gateway knows that the client has left
            http.post("/queues/q/jobs", content=b"1")
            delivery = http.get("/queues/q/next?timeout=5").json()
            assert delivery["data"] == 1
            assert http.post(delivery["lease"]["url"] + "/ack").status_code == 204
        with contextlib.closing(
            http_client.HTTPSConnection("127.0.0.1", gateway.port, timeout=10, context=gateway.verify)
        ) as connection:
            connection.request("POST", "/queues/q/jobs", b"x" * 9_000_000)
            assert connection.getresponse().status == 413
        assert "Traceback" not in gateway.log.read_text()
        with pytest.raises(httpx.HTTPError):
            plain.get(gateway.url.replace("https", "http") + "/livez")
        checked = command("healthcheck", KESTREL_GATEWAY_PORT=str(gateway.port), KESTREL_GATEWAY_SSL_CERTFILE="any")
        assert checked.returncode == 0, checked.stderr
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_clients_show_certificates(tmp_path, files):
    """With authorities named, only a client with a certificate of theirs is served."""
    flags = (*flags_of(files), "--ssl-ca-certs", str(files / "client.pem"))
    gateway = RunningTls(tmp_path / "data", trusting(files, "client"), *flags)
    try:
        for verify in (trusting(files), trusting(files, "server")):
            with pytest.raises(httpx.HTTPError):
                httpx.get(gateway.url + "/livez", verify=verify)
    finally:
        gateway.kill()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ssl-certfile", "none.pem"], "ssl-certfile: none.pem cannot be read: No such file or directory"),
        (
            ["--ssl-certfile", "server.key"],
            "ssl-certfile: server.key and the key in it are not a certificate and its key",
        ),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "client.key"], "are not a certificate and its key"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "none.key"], "ssl-keyfile: none.key cannot be read"),
        (["--ssl-keyfile", "server.key"], "ssl-certfile: not given"),
        (
            ["--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certs", "server.key"],
            "ssl-ca-certs: server.key has no certificates",
        ),
    ],
)
def test_wrong_files_are_refused(files, monkeypatch, flags, message):
    """One line and exit code 2, before anything starts."""
    monkeypatch.chdir(files)
    done = command("serve", *NOWHERE, *flags)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert message.encode() in done.stderr
