"""The list of queues: filters, order and pages, as pure functions and over HTTP."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.listing import FIELDS, Listing
from gateway.errors import InvalidParameter
from tests.running import running


@dataclass(frozen=True)
class Figures:
    queue: str
    items: int = 0
    bytes: int = 0
    age_s: float = 0.0
    open_reads: int = 0
    waiters: int = 0
    total_items: int = 0
    expired_items: int = 0
    discarded_items: int = 0


QUEUES = [
    Figures("emails", items=5, age_s=61.5),
    Figures("img-big", items=101, age_s=3),
    Figures("img-small", items=100),
    Figures("pdf", items=100, waiters=2),
]


def names(*filters, sort="name", limit=1000, cursor=None):
    shown, _ = Listing(filters, sort, limit, cursor).page(QUEUES)
    return [each.queue for each in shown]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["emails", "img-big", "img-small", "pdf"]),
        (["items>100"], ["img-big"]),
        (["items>=100"], ["img-big", "img-small", "pdf"]),
        (["items<100"], ["emails"]),
        (["items<=5"], ["emails"]),
        (["items=100"], ["img-small", "pdf"]),
        (["items!=100"], ["emails", "img-big"]),
        (["age>=61.5"], ["emails"]),
        (["age_s>3"], ["emails"]),
        (["name~img-*"], ["img-big", "img-small"]),
        (["name~???"], ["pdf"]),
        (["name=pdf"], ["pdf"]),
        (["name=img-*"], []),
        (["items>=100", "name~img-*", "items<=100"], ["img-small"]),
        (["items>100", "items<100"], []),
    ],
)
def test_filters(filters, expected):
    """Each comparison does what it says; several must all hold."""
    assert names(*filters) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "items",
        "items>",
        ">5",
        "items>-1",
        "items>1e3",
        "items>x",
        "items~1",
        "nosuch>1",
        "name>a",
        "name!=a",
        "name~a/b",
    ],
)
def test_filters_that_are_none(text):
    """They are refused with a sentence, not read as something else."""
    with pytest.raises(InvalidParameter, match="filter"):
        names(text)


def test_order():
    """By any field, up or down; equal ones by name, in the same direction."""
    assert names(sort="items") == ["emails", "img-small", "pdf", "img-big"]
    assert names(sort="-items") == ["img-big", "pdf", "img-small", "emails"]
    assert names(sort="-age") == names(sort="-age_s") == ["emails", "img-big", "pdf", "img-small"]
    assert names(sort="-name") == ["pdf", "img-small", "img-big", "emails"]
    with pytest.raises(InvalidParameter):
        names(sort="nosuch")


@given(
    queues=st.lists(
        st.builds(Figures, st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.integers(0, 3), age_s=st.floats(0, 2)),
        unique_by=lambda each: each.queue,
    ),
    sort=st.sampled_from([f"{sign}{field}" for sign in ("", "-") for field in (*FIELDS, "name")]),
    limit=st.integers(1, 4),
)
def test_pages_are_the_list(queues, sort, limit):
    """Page by page every queue is shown once, in the order of the whole list; the last page has no next."""
    whole, none = Listing((), sort, 1000, None).page(queues)
    assert none is None
    found, cursor = [], None
    for _ in range(len(queues) + 1):
        shown, cursor = Listing((), sort, limit, cursor).page(queues)
        found += shown
        if cursor is None:
            break
        assert len(shown) == limit
    assert (found, cursor) == (whole, None)


@given(st.binary(min_size=9, max_size=72))
def test_any_cursor_is_a_place(raw):
    """Whatever has a cursor's form is read; what has not is refused."""
    shown, _ = Listing((), "items", 1000, raw.hex()).page(QUEUES)
    assert {each.queue for each in shown} <= {each.queue for each in QUEUES}
    with pytest.raises(InvalidParameter):
        names(cursor="xyz")


def test_a_queue_that_comes_moves_no_other():
    """Between two pages a queue may appear or vanish before the cursor: none is shown twice, none is left out."""
    first, cursor = Listing((), "name", 2, None).page(QUEUES)
    later = [Figures("aaa"), *QUEUES[1:]]
    second, _ = Listing((), "name", 2, cursor).page(later)
    assert [each.queue for each in (*first, *second)] == ["emails", "img-big", "img-small", "pdf"]


def test_over_http(tmp_path):
    """Filters, order and pages as URLs; `next` leads from page to page with the same question."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        for number, count in enumerate([3, 1, 2, 2]):
            for _ in range(count):
                http.post(f"/queues/img-{number}/jobs", json=1)
        http.post("/queues/other/jobs", json=1)
        target, pages = "/queues?filter=name~img-*&filter=items%3E1&sort=-items&limit=2", []
        while target:
            answer = http.get(target).json()
            pages.append([each["queue"] for each in answer["queues"]])
            target = answer["next"]
        assert pages == [["img-0", "img-3"], ["img-2"]]
        assert b'"queue":"other"' in gateway.raw(
            b"GET /queues?filter=items<=1&sort=-name&limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert http.get("/queues").json()["next"] is None


@pytest.mark.parametrize(
    "query",
    ["sort=x", "sort=name&sort=items", "limit=0", "limit=10001", "limit=1.5", "cursor=zz", "cursor=", "filter=x", "x=1"]
    + ["&".join(["filter=items>1"] * 17), "filter=items>1%00", "filter=name~%2e%2e%2f", "sort=", "limit=%C2%B2"],
)
def test_questions_that_cannot_be_asked(http, query):
    """A 400 that names the parameter."""
    answer = http.get(f"/queues?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert query.split("=")[0] in answer.json()["detail"]
