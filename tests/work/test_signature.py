"""Signatures of Standard Webhooks, compared with the published examples.

Source of the example: libraries/python/tests/test_webhooks.py, in github.com/standard-webhooks/standard-webhooks.
"""

from __future__ import annotations

import re

import pytest

from gateway.work import signature

SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EXAMPLE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("written", [SECRET, "whsec_" + SECRET])
def test_the_published_example(written: str):
    """Id, time, body and secret of the specification's own tests give its signature."""
    headers = signature.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [signature.secret(written)]
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": EXAMPLE,
    }


def test_two_secrets_make_two_signatures():
    """While a secret changes, either verifies."""
    secrets = [signature.secret(SECRET), bytes(24)]
    one, two = signature.headers("a", 1, b"", secrets)["webhook-signature"].split(" ")
    assert one == signature.headers("a", 1, b"", secrets[:1])["webhook-signature"]
    assert two == signature.headers("a", 1, b"", secrets[1:])["webhook-signature"]


@pytest.mark.parametrize("job_id", ["a.b", "", "ä", "x" * 129, "two words", "a\nb", "5f0c1c6d2f5b4b1a9d4be83bd6a1f2c7"])
def test_an_id_has_no_point_and_is_the_same_each_time(job_id: str):
    """Whatever the id of the job is; an item without an id is known by its bytes."""
    identity = signature.webhook_id(job_id, b"body")
    assert re.fullmatch("[A-Za-z0-9_-]{1,128}", identity)
    assert identity == signature.webhook_id(job_id, b"body")
    assert identity != signature.webhook_id(job_id + "2", b"body")
    assert (identity != signature.webhook_id(job_id, b"other")) is (job_id == "")


@pytest.mark.parametrize("written", ["", "whsec_", "short", "whsec_!!!", "A" * 31, "QUJD", "A" * 92])
def test_a_wrong_secret_is_not_shown(written: str):
    """It is refused with what is wrong, and without the secret."""
    with pytest.raises(signature.SecretError) as caught:
        signature.secret(written)
    assert not written or written not in str(caught.value)
