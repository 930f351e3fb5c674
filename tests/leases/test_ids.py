"""Lease ids: which worker made them, for which tenant, and that they cannot be forged."""

import base64
import re
from collections.abc import Iterator
from hashlib import blake2b, sha256

import pytest

from gateway.errors import LeaseNotFound
from gateway.leases.ids import LONGEST_INSTANCE, LeaseIds, Owner

BOOT = "aa" * 8
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
TWIN_KEY = next(
    key for key in (b"%032d" % n for n in range(10_000)) if sha256(key).digest()[0] == sha256(KEY).digest()[0]
)
"""Another key that has the same key id."""
LONGEST_URL = "http://" + "n" * 60 + "." + "n" * (LONGEST_INSTANCE - 68)
URLS = ["", "http://a", "http://10.0.3.17:8080", "https://[fd00::17]:8443", LONGEST_URL]


@pytest.mark.parametrize("url", URLS, ids=len)
def test_an_id_names_its_owner(url):
    """Instance and worker come back as they were, whatever the URL's length, and no character is padding."""
    ids = LeaseIds([KEY], BOOT, url)
    lease = ids.new("acme")
    assert ids.owner(lease, "acme") == Owner(url, BOOT) == ids.own
    assert 56 <= len(lease) <= 192
    assert "=" not in lease
    assert ids.new("acme") != lease


def test_an_id_without_an_instance_is_short():
    """A gateway that is alone writes 56 characters."""
    assert len(LeaseIds([KEY], BOOT).new()) == 56


def test_an_id_is_bound_to_its_key_and_tenant():
    """With another key, also one of the same key id, or another tenant it is no id at all."""
    ids = LeaseIds([KEY], BOOT, "http://a")
    lease = ids.new("acme")
    others = [(LeaseIds([key], BOOT, "http://a"), "acme") for key in (OTHER_KEY, TWIN_KEY)]
    for reader, tenant in ((ids, ""), (ids, "evil"), *others):
        with pytest.raises(LeaseNotFound):
            reader.owner(lease, tenant)


@pytest.mark.parametrize("url", ["", "http://10.0.3.17:8080"])
def test_every_changed_character_is_noticed(url):
    """One character other than it was, one more, one less: no such lease."""
    ids = LeaseIds([KEY], BOOT, url)
    lease = ids.new()
    changed = [lease[:at] + ("A" if lease[at] != "A" else "B") + lease[at + 1 :] for at in range(len(lease))]
    raw = base64.urlsafe_b64decode(lease)
    changed += [lease + "A", lease + "AAAA", lease[:-1], lease[:-4], lease + "=", "", "é" * 56, "A" * 56, "A" * 3000]
    changed += [base64.urlsafe_b64encode(raw[:26] + b"http://evil." + raw[26:]).decode()]
    for each in changed:
        with pytest.raises(LeaseNotFound):
            ids.owner(each)


def resigned(lease: str, tenant: str) -> Iterator[tuple[str, str]]:
    """Every other way to cut what was signed into an id and a tenant's name: each would have the same tag."""
    raw = base64.urlsafe_b64decode(lease)
    signed, tag = raw[:-16] + tenant.encode(), raw[-16:]
    for at in range(len(signed) + 1):
        if at != len(raw) - 16:
            name = signed[at:].decode("latin-1")
            yield base64.urlsafe_b64encode(signed[:at] + tag).decode(), name


@pytest.mark.parametrize("url", URLS, ids=len)
def test_no_letter_moves_between_the_id_and_the_tenant(url):
    """An id of `abcshop` is none of `shop`, however what was signed is cut in two."""
    ids = LeaseIds([KEY], BOOT, url)
    forged = list(resigned(ids.new("abcshop"), "abcshop"))
    assert any(re.fullmatch("[a-z]+", name) for _, name in forged)
    for lease, tenant in forged:
        if not tenant or re.fullmatch("[A-Za-z0-9_-]+", tenant):
            with pytest.raises(LeaseNotFound):
                ids.owner(lease, tenant)


def old_form(key: bytes, url: str, tenant: str) -> str:
    """An id as it was made before a zero byte separated the URL from the tenant."""
    head = bytes([1, sha256(key).digest()[0]]) + bytes.fromhex(BOOT) + bytes(16)
    unsigned = head + url.encode() + bytes(-len(url) % 3)
    derived = blake2b(key, digest_size=32, person=b"lease id").digest()
    tag = blake2b(unsigned + tenant.encode(), key=derived, digest_size=16).digest()
    return base64.urlsafe_b64encode(unsigned + tag).decode()


def test_the_old_form_is_read_for_a_while():
    """A replica of the version before goes on giving it out during an update. Where a zero byte happens to be in it
    already, or there is no URL, it is the new form.
    """
    ids = LeaseIds([KEY], BOOT)
    unseparated = old_form(KEY, "http://gw:18080", "acme")  # 15 characters
    assert ids.owner(unseparated, "acme").instance == "http://gw:18080"
    ids.refuse_old_form()
    with pytest.raises(LeaseNotFound):
        ids.owner(unseparated, "acme")
    for url in ("", "http://gw:8080", "http://gw:808"):
        assert ids.owner(old_form(KEY, url, "acme"), "acme").instance == url


@pytest.mark.parametrize("url", ["http://gw:8080shop", "http://gw:99999", "ftp://gw", "gw", "http://gw/x", "http://é"])
def test_what_is_no_url_of_an_instance_is_never_used(url):
    """Not even with the right tag, and in no form."""
    with pytest.raises(LeaseNotFound):
        LeaseIds([KEY], BOOT).owner(old_form(KEY, url, "acme"), "acme")


def test_two_keys_while_they_change():
    """The first signs; ids of either are read, before, during and after the change."""
    old, both = LeaseIds([KEY], BOOT), LeaseIds([KEY, OTHER_KEY], BOOT)
    swapped, new = LeaseIds([OTHER_KEY, KEY], BOOT), LeaseIds([OTHER_KEY], BOOT)
    for maker, readers in ((old, (both, swapped)), (both, (old, swapped)), (swapped, (both, new)), (new, (swapped,))):
        for reader in readers:
            assert reader.owner(maker.new("t"), "t") == maker.own
    with pytest.raises(LeaseNotFound):
        new.owner(old.new())


def test_weak_keys_and_long_urls_are_refused():
    """Less than 32 bytes, no key, or a URL that does not fit."""
    for keys in ([], [b"short"], [KEY, b"short"]):
        with pytest.raises(ValueError, match="32 bytes"):
            LeaseIds(keys, BOOT)
    with pytest.raises(ValueError, match="too long"):
        LeaseIds([KEY], BOOT, "h" * (LONGEST_INSTANCE + 1))
