"""The list of queues: filters, order and pages, as pure functions and over HTTP."""

import asyncio
import random
import re
import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.response.cursor import Cursor
from gateway.api.response.listing import FIELDS, Listing
from gateway.errors import InvalidParameter
from gateway.fairness.turns import Turns
from tests.lab.gateway import running

LOOP = asyncio.Runner()
"""One event loop for thousands of pages: to make one takes longer than to make a page."""


@pytest.fixture(scope="module", autouse=True)
def _close_loop():
    yield
    LOOP.close()


def page(listing, queues, at_s=1_700_000_000.0):
    """A page of the list, without anyone else on the loop."""
    return LOOP.run(listing.page(queues, Turns(), at_s=at_s))


@dataclass(frozen=True)
class ListedQueue:
    queue: str
    items: int = 0
    bytes: int = 0
    age_s: float = 0.0
    open_reads: int = 0
    backlog: int = 0
    waiters: int = 0
    total_items: int = 0
    expired_items: int = 0
    discarded_items: int = 0
    dead_letters: int = 0


QUEUES = [
    ListedQueue("emails", items=5, age_s=61.5),
    ListedQueue("img-big", items=101, age_s=3),
    ListedQueue("img-small", items=100),
    ListedQueue("pdf", items=100, waiters=2),
]


def names(*filters, sort="name", limit=1000, cursor=None):
    shown, _ = page(Listing(filters, sort, limit, cursor), QUEUES)
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
def test_every_filter_must_hold(filters, expected):
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("items > 1", "filter: 'items > 1' is not a field, a comparison and a value without spaces, such as items>100"),
        ("itemz>1", "filter: unknown field 'itemz'; the fields are name, items, bytes, age, "),
        ("nosuch~a", "filter: unknown field 'nosuch'; the fields are name, items, bytes, age, "),
        ("items~1", "filter: items is a number; compare it with > >= < <= = !="),
        ("items>x", "filter: 'x' is not a number, such as 20 or 0.5"),
        ("items> 1", "filter: ' 1' is not a number, such as 20 or 0.5"),
    ],
)
def test_a_filter_that_is_none_says_what_is_wrong(text, message):
    """With what may be written."""
    with pytest.raises(InvalidParameter, match=re.escape(message)):
        names(text)


def test_any_field_orders_the_list():
    """By any field, up or down; equal ones by name, upwards in both."""
    assert names(sort="items") == ["emails", "img-small", "pdf", "img-big"]
    assert names(sort="-items") == ["img-big", "img-small", "pdf", "emails"]
    assert names(sort="-age") == names(sort="-age_s") == ["emails", "img-big", "img-small", "pdf"]
    assert names(sort="-name") == ["pdf", "img-small", "img-big", "emails"]
    with pytest.raises(InvalidParameter):
        names(sort="nosuch")


@given(
    queues=st.lists(
        st.builds(ListedQueue, st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.integers(0, 3), age_s=st.floats(0, 2)),
        unique_by=lambda each: each.queue,
    ),
    sort=st.sampled_from([f"{sign}{field}" for sign in ("", "-") for field in (*FIELDS, "name")]),
    limit=st.integers(1, 4),
)
def test_pages_are_the_list(queues, sort, limit):
    """Page by page every queue is shown once, in the order of the whole list; the last page has no next."""
    whole, none = page(Listing((), sort, 1000, None), queues)
    assert none is None
    found, cursor = [], None
    for _ in range(len(queues) + 1):
        shown, cursor = page(Listing((), sort, limit, cursor), queues)
        found += shown
        if cursor is None:
            break
        assert len(shown) == limit
    assert (found, cursor) == (whole, None)


CURSORS = [
    Cursor("items", left=2, at_s=0.0, value=float("nan"), name="a", ahead=(), more=True),
    Cursor("-age_s", left=0, at_s=float("inf"), value=float("-inf"), name="", ahead=(b"12345",) * 3, more=True),
    Cursor("name", left=9, at_s=-1e300, value=1e300, name="\N{SNOWMAN}", ahead=(), more=False),
]


@given(st.sampled_from(CURSORS), st.data())
def test_a_broken_cursor_is_refused_or_read(cursor, data):
    """Whatever a cursor was made into: queues are shown, each once, or it is refused; nothing else happens."""
    text = cursor.text
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.text("AZaz09_-", max_size=3)) + text[place + data.draw(st.integers(0, 3)) :]
    try:
        shown, _ = page(Listing((), cursor.sort, 1000, text), QUEUES)
    except InvalidParameter:
        return
    found = [each.queue for each in shown]
    assert len(found) == len({*found} & {each.queue for each in QUEUES})


@pytest.mark.parametrize("cursor", ["", "xyz", "A", "AAAA", "!", "A" * 5000])
def test_what_is_no_cursor_is_refused(cursor):
    """It is an error, and not read as the first page."""
    with pytest.raises(InvalidParameter, match="cursor"):
        names(cursor=cursor)


@pytest.mark.parametrize(("first", "then"), [("name", "-items"), ("items", "-items"), ("age", "items")])
def test_a_cursor_of_another_order_is_refused(first, then):
    """It names a place in its own order only; `age` and `age_s` are one."""
    _, cursor = page(Listing((), first, 1, None), QUEUES)
    with pytest.raises(InvalidParameter, match="cursor"):
        names(sort=then, cursor=cursor)
    _, cursor = page(Listing((), "age", 1, None), QUEUES)
    assert len(names(sort="age_s", cursor=cursor)) == len(QUEUES) - 1


SORTS = [f"{sign}{field}" for sign in ("", "-") for field in (*FIELDS, "name")]


def paged(sort, limit, queues, between, clock=(1_700_000_000.0,)):
    """All pages, by name; before each but the first the queues become what `between` makes of them. clock: one time."""
    pages, cursor = [], None
    while True:
        shown, cursor = page(Listing((), sort, limit, cursor), queues, clock[0])
        pages.append([each.queue for each in shown])
        assert len(pages) <= len(queues) + 1, "the pages do not end"
        if cursor is None:
            return pages
        queues = between(queues)


@given(
    sort=st.sampled_from(SORTS),
    limit=st.integers(1, 5),
    count=st.integers(0, 30),
    seed=st.integers(0, 1 << 32),
)
def test_each_queue_is_shown_once_whatever_its_figures_become(sort, limit, count, seed):
    """In the order of the first page, though every figure of every queue changes between any two pages."""
    chance = random.Random(seed)  # Hypothesis takes twenty times as long for thousands of figures

    def changed(queues):
        return [ListedQueue(each.queue, *(chance.randrange(5) for _ in range(9))) for each in queues]

    queues = changed([ListedQueue(f"q{number}") for number in range(count)])
    expected = [each.queue for each in page(Listing((), sort, 1000, None), queues)[0]]
    assert [name for page in paged(sort, limit, queues, changed) for name in page] == expected


def test_queues_that_vanish_or_come_while_pages_are_read():
    """Those that go are left out, the others stay in their places; those that come wait for the next list."""
    queues = [ListedQueue(f"q{number:02}", items=number) for number in range(30)]
    found = paged("items", 10, queues, lambda each: [*each[5:], ListedQueue("new", items=1000)])
    assert [name for page in found for name in page] == [f"q{number:02}" for number in (*range(20), *range(20, 30))]


@pytest.mark.parametrize("sort", ["-age", "age", "items", "-items"])
def test_a_long_list_of_changing_figures_ends(sort, monkeypatch):
    """Beyond what a cursor holds no page comes for ever; ages that only grow lose and repeat no queue there either."""
    monkeypatch.setattr("gateway.api.response.cursor.MAX_AHEAD", 20)
    clock = [time.time()]
    queues = [ListedQueue(f"q{number:03}", items=number, age_s=number / 100) for number in range(200)]

    def older(queues):
        clock[0] += 7
        return [replace(each, age_s=each.age_s + 7, items=each.items + 50) for each in queues]

    found = [name for page in paged(sort, 10, queues, older, clock) for name in page]
    assert len(found) <= len(queues)
    if "age" in sort:
        assert sorted(found) == [each.queue for each in queues]


@pytest.mark.parametrize("sort", ["-age", "age"])
def test_queues_of_near_ages_are_shown_once_beyond_what_a_cursor_holds(sort, monkeypatch):
    """Whatever the times of the lists are, which fall between milliseconds."""
    monkeypatch.setattr("gateway.api.response.cursor.MAX_AHEAD", 5)
    clock = [1_700_000_000.1234]
    since_ms = {f"q{number:02}": 1_699_999_000_456 + number // 3 for number in range(60)}

    def later(_=None):
        clock[0] += 0.7717
        now_ms = round(clock[0] * 1000)
        return [ListedQueue(name, items=1, age_s=(now_ms - since) / 1000) for name, since in since_ms.items()]

    queues = later()
    expected = [each.queue for each in page(Listing((), sort, 1000, None), queues, clock[0])[0]]
    assert [name for page in paged(sort, 3, queues, later, clock) for name in page] == expected


@pytest.mark.parametrize("sort", SORTS)
def test_equal_queues_are_shown_once_beyond_what_a_cursor_holds(sort, monkeypatch):
    """In the order of their names, up and down; those without jobs do not age while pages are read."""
    monkeypatch.setattr("gateway.api.response.cursor.MAX_AHEAD", 5)
    clock = [1_700_000_000.0]
    figures = dict.fromkeys((field for field in FIELDS.values() if field != "age_s"), 7)
    equal = [ListedQueue(f"q{number:02}") for number in range(12)]
    same = [ListedQueue(f"r{number:02}", age_s=3, **figures) for number in range(12)]

    def later(queues):
        clock[0] += 7
        return [replace(each, age_s=each.age_s + 7 if each.items else 0) for each in queues]

    up, down = [each.queue for each in (*equal, *same)], [each.queue for each in (*same, *equal)]
    expected = up if not sort.startswith("-") else up[::-1] if sort == "-name" else down
    assert [name for page in paged(sort, 3, [*same[::-1], *equal[::-1]], later, clock) for name in page] == expected


def test_a_cursor_fits_into_a_request():
    """However many queues there are, and however long their names."""
    queues = [ListedQueue(f"{number:064}", items=number) for number in range(3000)]
    listing = Listing((), "-items", 1000, None)
    _, cursor = page(listing, queues)
    assert len(listing.link(cursor)) < 4000


def test_a_queue_that_comes_moves_no_other():
    """Between two pages a queue may appear or vanish before the cursor: none is shown twice, none is left out."""
    first, cursor = page(Listing((), "name", 2, None), QUEUES)
    later = [ListedQueue("aaa"), *QUEUES[1:]]
    second, _ = page(Listing((), "name", 2, cursor), later)
    assert [each.queue for each in (*first, *second)] == ["emails", "img-big", "img-small", "pdf"]


def test_filters_order_and_pages_work_over_http(tmp_path):
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
        assert pages == [["img-0", "img-2"], ["img-3"]]
        assert b'"queue":"other"' in gateway.raw(
            b"GET /queues?filter=items<=1&sort=-name&limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert http.get("/queues").json()["next"] is None


def test_pages_by_age_over_http(http):
    """Ages grow from page to page; each queue is shown once all the same."""
    for number in range(12):
        http.post(f"/queues/ag-{number}/jobs", json=1)
    for sort in ("age", "-age"):
        target, found = f"/queues?limit=3&sort={sort}&filter=name~ag-*", []
        while target:
            assert len(found) < 12
            answer = http.get(target).json()
            found += [each["queue"] for each in answer["queues"]]
            target = answer["next"]
        assert sorted(found) == sorted(f"ag-{number}" for number in range(12))


IMPOSSIBLE = [
    *("sort=x", "sort=name&sort=items", "sort=", "limit=0", "limit=10001", "limit=1.5", "limit=%C2%B2"),
    *("cursor=zz", "cursor=", "filter=x", "x=1", "&".join(["filter=items>1"] * 17), "filter=items>1%00"),
    "filter=name~%2e%2e%2f",
]


def test_questions_that_cannot_be_asked(http):
    """A 400 that names the parameter."""
    for query in IMPOSSIBLE:
        answer = http.get(f"/queues?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter"), query
        assert query.split("=")[0] in answer.json()["detail"], query
