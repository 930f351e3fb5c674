"""Each kind of breaking change is named, with its place; what breaks no client is not."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stability import changes
from stability.changes import Change, breaking
from stability.contract import ContractError
from tests.lab.yaml_text import parse_yaml

pytestmark = pytest.mark.slow  # an outside program

BASE = Path(__file__).with_name("contract.yaml")
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def oasdiff() -> None:
    """oasdiff is there; missing, the test is skipped at home and fails in CI."""
    try:
        changes.oasdiff()
    except changes.OasdiffMissingError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


def edited(edit: Edit, tmp_path: Path) -> list[Change]:
    """What breaks when the small contract is edited so."""
    contract = copy.deepcopy(parse_yaml(BASE.read_text()))
    edit(contract)
    revision = tmp_path / "revision.yaml"
    revision.write_text(yaml.safe_dump(contract, sort_keys=False))
    return breaking(BASE, revision)


def operation(contract: dict[str, Any], method: str = "get") -> Any:
    return contract["paths"]["/queues/{queue}"][method]


def schema(contract: dict[str, Any], name: str) -> Any:
    return contract["components"]["schemas"][name]


def member(contract: dict[str, Any], name: str, of: str = "Change") -> Any:
    return schema(contract, of)["properties"][name]


def answer(contract: dict[str, Any], status: str = "200") -> Any:
    return operation(contract)["responses"][status]


def new_required_member(contract: dict[str, Any]) -> None:
    member(contract, "delay")
    schema(contract, "Change")["properties"]["why"] = {"type": "string"}
    schema(contract, "Change")["required"] = ["why"]


def renamed_schema(contract: dict[str, Any]) -> None:
    schemas = contract["components"]["schemas"]
    schemas["Figures"] = schemas.pop("Queue")
    answer(contract)["content"]["application/json"]["schema"]["$ref"] = "#/components/schemas/Figures"


def listed_value_removed(contract: dict[str, Any]) -> None:
    state = schema(contract, "State")
    state["description"] = state["description"].replace("- `acked`", "- `done`")


def hidden_parameter(contract: dict[str, Any]) -> None:
    """A parameter is kept from generators from now on; requests have it as before."""
    operation(contract)["x-parameters"].append(operation(contract)["parameters"].pop(0))


NEW_PARAMETER = {"name": "why", "in": "query", "required": True, "schema": {"type": "string"}}
GET, POST, DELETE = "GET /queues/{queue}", "POST /queues/{queue}", "DELETE /queues/{queue}"

# What is done to the contract, where it is named, and words that name it.
BREAKING: dict[str, tuple[Edit, str, str]] = {
    "path removed": (lambda c: c["paths"].pop("/livez"), "GET /livez", "removed"),
    "operation removed": (lambda c: c["paths"]["/queues/{queue}"].pop("delete"), DELETE, "removed"),
    "operationId changed": (lambda c: operation(c).update(operationId="queue"), GET, "`getQueue`"),
    "tag changed": (lambda c: operation(c).update(tags=["service"]), GET, "`queues` removed"),
    "security tightened": (lambda c: operation(c).update(security=[{"key": ["operator"]}]), GET, "`operator`"),
    "parameter removed": (lambda c: operation(c)["parameters"].pop(0), GET, "`detail`"),
    "hidden parameter removed": (lambda c: operation(c).pop("x-parameters"), GET, "`format`"),
    "parameter required": (lambda c: operation(c)["parameters"][0].update(required=True), GET, "`detail`"),
    "required parameter new": (lambda c: operation(c)["parameters"].append(NEW_PARAMETER), GET, "`why`"),
    "parameter's enum narrowed": (lambda c: operation(c)["parameters"][0]["schema"]["enum"].pop(), GET, "`ages`"),
    "parameter's limit lowered": (lambda c: operation(c)["parameters"][1]["schema"].update(maximum=50), GET, "`50.00`"),
    "parameter's limit raised": (lambda c: operation(c)["parameters"][1]["schema"].update(minimum=2), GET, "`2.00`"),
    "parameter's default changed": (
        lambda c: operation(c)["parameters"][1]["schema"].update(default=5),
        GET,
        "default",
    ),
    "parameter's type narrowed": (
        lambda c: operation(c)["parameters"][0]["schema"].update(type="integer"),
        GET,
        "type",
    ),
    "path parameter's pattern": (
        lambda c: c["components"]["parameters"]["QueueName"]["schema"].update(pattern="^a$"),
        GET,
        "pattern",
    ),
    "body required": (lambda c: operation(c, "post")["requestBody"].update(required=True), POST, "became required"),
    "request type removed": (
        lambda c: operation(c, "post")["requestBody"]["content"].pop("application/x-ndjson"),
        POST,
        "`application/x-ndjson`",
    ),
    "member removed": (lambda c: schema(c, "Change")["properties"].pop("delay"), POST, "`delay`"),
    "required member new": (new_required_member, POST, "`why`"),
    "member required": (lambda c: schema(c, "Change").update(required=["delay"]), POST, "`delay`"),
    "member's type narrowed": (lambda c: member(c, "delay").update(type="integer"), POST, "`delay`"),
    "member's enum narrowed": (lambda c: member(c, "position")["enum"].pop(), POST, "`tail`"),
    "member's maximum lowered": (lambda c: member(c, "delay").update(maximum=50), POST, "`delay`"),
    "member's length lowered": (lambda c: member(c, "reason").update(maxLength=50), POST, "`reason`"),
    "member's items lowered": (lambda c: member(c, "names").update(maxItems=5), POST, "`names`"),
    "member's default changed": (lambda c: member(c, "max").update(default=5), POST, "`max`"),
    "success status removed": (lambda c: operation(c)["responses"].pop("204"), GET, "`204`"),
    "error status removed": (lambda c: operation(c)["responses"].pop("404"), GET, "`404`"),
    "answer's type removed": (lambda c: answer(c)["content"].pop("text/csv"), GET, "`text/csv`"),
    "answer's header removed": (lambda c: answer(c)["headers"].pop("Request-Id"), GET, "`request-id`"),
    "answer's optional header removed": (lambda c: answer(c)["headers"].pop("Queue-Coverage"), GET, "`queue-coverage`"),
    "answer's member removed": (lambda c: schema(c, "Queue")["properties"].pop("status"), GET, "`status`"),
    "answer's member optional": (lambda c: schema(c, "Queue").pop("required"), GET, "`items`"),
    "answer's member's type": (lambda c: member(c, "items", "Queue").update(type="string"), GET, "`items`"),
    "answer's member null": (lambda c: member(c, "status", "Queue").update(type=["string", "null"]), GET, "`status`"),
    "answer's enum wider": (lambda c: member(c, "status", "Queue")["enum"].append("odd"), GET, "`odd`"),
    "code removed": (lambda c: member(c, "code", "Problem")["enum"].pop(), GET, "`queue-full`"),
    "listed value removed": (listed_value_removed, "", "`acked` of the schema `State`"),
    "schema renamed": (renamed_schema, "", "`Queue`"),
}

HARMLESS: dict[str, Edit] = {
    "nothing": lambda _: None,
    "description": lambda c: operation(c).update(description="more"),
    "path new": lambda c: c["paths"].update({"/readyz": copy.deepcopy(c["paths"]["/livez"])}),
    "optional parameter new": lambda c: operation(c)["parameters"].append({**NEW_PARAMETER, "required": False}),
    "optional member new": lambda c: schema(c, "Change")["properties"].update(why={"type": "string"}),
    "limit wider": lambda c: member(c, "delay").update(maximum=500),
    "answer's member new": lambda c: schema(c, "Queue")["properties"].update(age_s={"type": "number"}),
    "answer's status new": lambda c: operation(c)["responses"].update({"503": {"description": "later"}}),
    "parameter hidden": hidden_parameter,
    "code new": lambda c: member(c, "code", "Problem")["enum"].append("queue-odd"),
}


@pytest.mark.parametrize("kind", BREAKING)
def test_each_kind_is_named(kind: str, tmp_path: Path) -> None:
    """The change is found, with the operation where it is and what it is about."""
    edit, where, words = BREAKING[kind]
    found = edited(edit, tmp_path)
    assert any(words in each.text and where in (*each.operations, "") for each in found), [str(each) for each in found]


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_harms_nobody_is_not_named(kind: str, tmp_path: Path) -> None:
    """A client of the base goes on with the revision."""
    assert edited(HARMLESS[kind], tmp_path) == []


def test_a_change_at_many_places_is_one(tmp_path: Path) -> None:
    """What changes in a shared schema is named once, with its operations."""

    def edit(contract: dict[str, Any]) -> None:
        contract["components"]["parameters"]["QueueName"]["schema"]["maxLength"] = 32

    (change,) = edited(edit, tmp_path)
    assert change.operations == (DELETE, GET, POST)
    assert str(change).endswith(f"({DELETE}, {GET}, {POST}) [request-parameter-max-length-decreased]")


def test_a_contract_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A file that is no contract is no contract without changes."""
    (tmp_path / "broken.yaml").write_text("openapi: [")
    with pytest.raises(ContractError, match=r"broken\.yaml"):
        breaking(BASE, tmp_path / "broken.yaml")
