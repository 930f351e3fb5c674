"""Takes jobs from a queue, works on one after the other, and acks them. Needs httpx.

    pip install httpx
    QUEUE=emails python consumer.py

LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
SIGTERM ends it with exit code 0: at once while it waits for a job, otherwise once its job is acked.
"""

import contextlib
import json
import signal
import sys
import threading
import time

import gateway

LEASE_S = int(gateway.setting("LEASE_SECONDS", "60", "[1-9][0-9]{0,8}", "a whole number of seconds from 1 on"))


def work(job: dict) -> None:
    """Your code. Raises if the job failed. A job may come twice: tell by job["id"]."""
    mail = job.get("data")  # a string for text; "data_base64" for bytes that are neither JSON nor text
    if not isinstance(mail, dict) or "to" not in mail:
        raise ValueError("the mail has no address")
    time.sleep(mail.get("seconds", 0))  # in place of real work
    print(json.dumps(mail), flush=True)


def handle(job: dict) -> None:
    """Works on the job, then acks it, or gives it back with the reason."""
    lease = f"/leases/{job['lease']['id']}"
    log(f"{job['id']}: attempt {job['attempt']}")
    try:
        with extended(lease):
            work(job)
    except Exception as error:
        log(f"{job['id']} failed: {error}")
        # The next attempt comes later each time. After the last one the job goes to the dead letters.
        settle(f"{lease}/nack", {"reason": str(error), "delay": min(2 ** job["attempt"], 300)})
    else:
        settle(f"{lease}/ack")


def settle(path: str, body: dict | None = None) -> None:
    try:
        gateway.call("POST", path, json=body, give_up_s=LEASE_S)
    except gateway.Failed as failed:
        # lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
        log(f"not settled: {failed}")


@contextlib.contextmanager
def extended(lease: str):
    """Extends the lease, again and again, while the block runs."""

    def extend() -> None:
        while not done.wait(LEASE_S / 3):
            try:
                gateway.once("POST", f"{lease}/extend", json={"lease_seconds": LEASE_S})
            except gateway.Failed as failed:
                log(f"not extended: {failed}")

    done = threading.Event()
    thread = threading.Thread(target=extend)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


busy = stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True
    if not busy:
        sys.exit(0)  # ends the poll; the gateway sees its connection close and gives it no job


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
try:
    while not stopping:
        job = gateway.call("GET", f"{gateway.QUEUE_PATH}/next?timeout={gateway.WAIT_S}&lease_seconds={LEASE_S}")
        if job is not None:
            busy = True
            handle(job)
            busy = False
except gateway.Failed as failed:
    sys.exit(f"stopped: {failed}")
