"""How a client of this contract behaves where no schema can say it: numbers in a query, keys of requests, events."""

import os
import re
from typing import Any
from urllib.parse import unquote

import schemathesis
from schemathesis.core import NotSet

EVENTS = {"application/cloudevents+json", "application/cloudevents-batch+json"}
REQUIRED = {"specversion", "source", "type"}
TEXTS = ("id", "source", "type", "subject", "dataschema")
KNOWN = {*TEXTS, "specversion", "time", "datacontenttype", "data", "data_base64"}

DUE = "2000-01-01T00:00:00Z"
"""No schema can say that a time is at most 30 days ahead."""
ONE_QUEUE = re.compile("/queues/{queue}/(?:jobs|jobs/batch|events|subscriptions)(?:/{child})?$")
NAMES = re.compile("[A-Za-z0-9_-]+(?:[+][A-Za-z0-9_-]+)?")


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Python would write 0.0000001 as 1e-07, which is no duration here."""
    if not isinstance(query, dict):
        return query
    return {name: f"{value:.30f}" if isinstance(value, float) else value for name, value in query.items()}


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """A value that a URL cannot say is not sent at all, and what is sent then is not what was meant to be wrong."""
    return not isinstance(query, dict) or not any(value is None or value in ([], {}) for value in query.values())


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A good Idempotency-Key was never used, a good cursor was given out; and no server is taken out.

    The names of a queue and of its subscription have 64 characters each; the schema can limit only both together.
    """
    queue = unquote(str((case.path_parameters or {}).get("queue", "")))
    if shortened(queue) != queue:
        case.path_parameters = {**case.path_parameters, "queue": shortened(queue)}
    if case.query and isinstance(case.query.get("queue"), list):
        case.query = {**case.query, "queue": [shortened(each) for each in case.query["queue"]]}
    if isinstance(case.body, dict) and isinstance(case.body.get("queues"), list):
        case.body = case.body | {"queues": [shortened(each) for each in case.body["queues"]]}
    if is_delayed(case):
        # A delay is given in one way and ends before the job expires, and jobs with a delay have no order.
        dropped = {"ttl", "at"} if "delay" in (case.query or {}) else {"ttl"}
        case.query = {name: value for name, value in (case.query or {}).items() if name not in dropped}
        case.headers = {name: value for name, value in (case.headers or {}).items() if name != "Ordering-Key"}
    if case.query and re.fullmatch("[A-Za-z0-9_-]{1,3600}", str(case.query.get("cursor", ""))):
        case.query = {name: value for name, value in case.query.items() if name != "cursor"}
    key = case.headers.get("Idempotency-Key") if case.headers else None
    if isinstance(key, str) and re.fullmatch("[!#-~](?:[ -~]{0,253}[!-~])?", key):
        case.headers["Idempotency-Key"] = key[:200].rstrip() + os.urandom(8).hex()
    elif isinstance(key, str) and re.fullmatch(r'"(?:[ !#-\[\]-~]|\\["\\]){1,255}"', key):
        case.headers["Idempotency-Key"] = f'"{os.urandom(8).hex()}"'

    if case.media_type in EVENTS:
        case.body = [event(each) for each in case.body] if isinstance(case.body, list) else event(case.body)
    negative = case.meta is not None and case.meta.generation.mode.is_negative
    if not negative and case.query and "at" in case.query:
        case.query = case.query | {"at": DUE}
    if not negative and ONE_QUEUE.search(case.path):
        # A name from another answer may be that of a subscription.
        case.path_parameters = {**case.path_parameters, "queue": re.split("[+]|%2B", case.path_parameters["queue"])[0]}
    if not negative and isinstance(case.body, dict) and isinstance(case.body.get("jobs"), list):
        case.body = case.body | {"jobs": [typed(each) for each in case.body["jobs"]]}
    if not negative and case.query and "tenant" in case.query:
        # No schema can say that this deployment has no tenants.
        case.query = {name: value for name, value in case.query.items() if name != "tenant"}
    if not negative and isinstance(case.body, dict):
        case.body = of_a_batch(case.body)
        if case.body.get("count") is False:  # without an attempt, the job goes to the head at once
            case.body = {name: value for name, value in case.body.items() if name not in {"position", "delay"}}
    if not negative and isinstance(case.body, dict) and "until" in case.body:
        case.body = case.body | {"until": "2126-01-31T12:00:00Z"}  # no schema can say that it is in the future
    # Whatever is stored after the only server was taken out would be refused.
    if isinstance(case.body, dict) and case.body.get("status") in ("readonly", "quiescent"):
        case.body = case.body | {"status": "up"}
    if negative:
        case.body = wrong_without_null(case.body)
        if isinstance(case.body, NotSet):
            # Without a type an empty body is an empty job; a client of this contract says what it sends.
            case.headers = {**(case.headers or {}), "Content-Type": "application/json"}


def of_a_batch(body: dict[str, Any]) -> dict[str, Any]:
    """What a request says of a batch: it has a number of jobs if it has a size, and names only jobs that there are."""
    if "max_bytes" in body:
        body = {"max": 2} | body
    if "upto" in body:
        body = body | {"upto": 1}
    return {"rest": body["rest"]} if "rest" in body else body


def is_delayed(case: Any) -> bool:
    """Whether the request, or a job of its batch, has a delay."""
    jobs = case.body.get("jobs") if isinstance(case.body, dict) else None
    parts = [case.query or {}, *(jobs if isinstance(jobs, list) else ())]
    return any(isinstance(each, dict) and each.keys() & {"delay", "at"} for each in parts)


def shortened(name: Any) -> Any:
    """The name of a queue, or of it and its subscription, with at most 64 characters each."""
    if not isinstance(name, str) or not NAMES.fullmatch(name.replace(" ", "+")):
        return name
    parts = re.split("([+ ])", name)
    return "".join(part[:63].rstrip("_-") if len(part) > 64 else part for part in parts)


def wrong_without_null(value: Any) -> Any:
    """The wrong body, with an object for each null: a null counts as absent, so it would make nothing wrong."""
    if isinstance(value, dict):
        return {name: wrong_without_null(each) for name, each in value.items()}
    if isinstance(value, list):
        return [wrong_without_null(each) for each in value]
    return {"wrong": 1} if value is None else value


def typed(job: Any) -> Any:
    """The job with one payload, its type and one delay, where the schema allows none or two, and any text as a type."""
    if not isinstance(job, dict):
        return job
    kept: dict[str, Any] = {"data": None} | job
    if "delay" in kept:  # it is given in one way
        kept.pop("at", None)
    if "at" in kept:
        kept["at"] = DUE
    if isinstance(kept.get("data_base64"), str):
        kept["data_base64"] = "AA=="
        kept.pop("data", None)
    if isinstance(kept.get("content_type"), str) and len(kept["content_type"]) <= 256:
        kept["content_type"] = "image/png" if "data_base64" in kept else "application/json"
    return kept


def event(value: Any) -> Any:
    """The event as CloudEvents allows it, where the contract's schema allows what was generated."""
    if not isinstance(value, dict) or not value.keys() >= REQUIRED or value["specversion"] != "1.0":
        return value
    if not all(isinstance(value[name], str) and value[name] for name in TEXTS if name in value):
        return value
    kept = {name: each for name, each in value.items() if name in KNOWN or is_extension(name, each)}
    for name in TEXTS:
        if name in kept:
            kept[name] = re.sub("[^A-Za-z0-9]", "", kept[name]) or "x"
    if "data_base64" in kept and isinstance(kept["data_base64"], str):
        kept["data_base64"] = "AA=="
        kept.pop("data", None)
    if isinstance(kept.get("datacontenttype"), str) and 3 <= len(kept["datacontenttype"]) <= 256:
        kept["datacontenttype"] = "image/png" if "data_base64" in kept else "application/json"
    return kept


def is_extension(name: str, value: Any) -> bool:
    if not re.fullmatch("[a-z0-9]{1,64}", name) or name == "expires":
        return False
    return isinstance(value, bool) or (isinstance(value, str) and re.fullmatch("[ -~]*", value) is not None)
