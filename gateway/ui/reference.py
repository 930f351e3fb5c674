"""The contract as one HTML document, for people. Pure: the document of openapi.yaml becomes text.

It has no script, and its only style sheet is the page's. Descriptions are CommonMark, as OpenAPI says; HTML in them is
shown, not interpreted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

from markdown_it import MarkdownIt

Node = Mapping[str, Any]

_METHODS: Final = ("get", "post", "put", "delete", "options")
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")


def reference(document: Node) -> str:
    """The whole page. Its links are relative, so it works under any prefix."""
    return "".join(_Reference(document).page())


class _Reference:
    def __init__(self, document: Node) -> None:
        self._document = document
        self._operations = [
            (path, method, self._with_shared(item, item[method]))
            for path, item in document["paths"].items()
            for method in _METHODS
            if method in item
        ]

    def page(self) -> Iterator[str]:
        info = self._document["info"]
        yield (
            "<!doctype html><html lang=en><head><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            '<meta name=color-scheme content="light dark">'
            f"<title>{escape(info['title'])}: reference</title>"
            '<link rel=icon href="ui/icon.svg" type="image/svg+xml"><link rel=stylesheet href="ui/base.css">'
            '<link rel=stylesheet href="ui/docs.css"></head><body>'
            '<a class=skip href="#main">Skip to the content</a><div class=docs>'
            '<nav aria-label="Operations and schemas">'
            f"<p><strong>{escape(info['title'])}</strong> {escape(info['version'])}</p>"
        )
        for name, operations in self._by_tag():
            yield f"<h2>{escape(name)}</h2><ul>"
            yield from (
                f'<li><a href="#{each["operationId"]}">{escape(each["summary"])}</a>' for _, _, each in operations
            )
            yield "</ul>"
        schemas = self._document["components"]["schemas"]
        yield "<h2>schemas</h2><ul>"
        yield from (f'<li><a href="#schema-{name}">{name}</a>' for name in schemas)
        yield f"</ul></nav><main id=main tabindex=-1><h1>{escape(info['title'])}</h1>{_text(info['description'])}"
        yield '<p>The document itself: <a href="openapi.yaml">openapi.yaml</a>, '
        yield '<a href="openapi.json">openapi.json</a>.</p>'
        for name, operations in self._by_tag():
            about = next((each["description"] for each in self._document["tags"] if each["name"] == name), "")
            yield f"<h2>{escape(name)}</h2>{_text(about)}"
            for each in operations:
                yield from self._operation(*each)
        yield "<h2>schemas</h2>"
        for name, schema in schemas.items():
            yield f'<section id="schema-{name}"><h3>{name}</h3>{_text(schema.get("description", ""))}'
            yield from self._schema(schema)
            yield "</section>"
        yield "</main></div></body></html>"

    def _by_tag(self) -> Iterator[tuple[str, list[tuple[str, str, Node]]]]:
        for tag in self._document["tags"]:
            yield tag["name"], [each for each in self._operations if each[2]["tags"][0] == tag["name"]]

    def _with_shared(self, item: Node, operation: Node) -> Node:
        return {**operation, "parameters": [*item.get("parameters", ()), *operation.get("parameters", ())]}

    def _resolve(self, node: Node) -> Node:
        if "$ref" not in node:
            return node
        found: Any = self._document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        resolved: Node = found
        return resolved

    def _operation(self, path: str, method: str, operation: Node) -> Iterator[str]:
        yield (
            f'<section id="{operation["operationId"]}"><h3>{escape(operation["summary"])}</h3>'
            f"<p class=call><span class={method}>{method.upper()}</span> <code>{escape(path)}</code></p>"
        )
        scopes = [scope for each in operation.get("security", ()) for scope in each.get("key", ())]
        yield f"<p class=quiet>Operation <code>{operation['operationId']}</code>"
        yield f", scope <code>{scopes[0]}</code></p>" if scopes else ", needs no key</p>"
        yield _text(operation.get("description", ""))
        parameters = [self._resolve(each) for each in operation["parameters"]]
        if parameters:
            yield "<h4>Parameters</h4>"
            yield from _table(("name", "in", "type", "description"), map(self._parameter, parameters))
        body = self._resolve(operation.get("requestBody", {}))
        for media, content in body.get("content", {}).items():
            yield f"<h4>Body: <code>{escape(media)}</code></h4>{_text(body.get('description', ''))}"
            yield from self._content(content)
        yield "<h4>Answers</h4>"
        yield from _table(("status", "description", "body"), self._answers(operation["responses"]))
        for status, answer in operation["responses"].items():
            for content in self._resolve(answer).get("content", {}).values():
                yield from _examples(f"{status}: ", content) if status.startswith("2") else ()
        yield "</section>"

    def _parameter(self, parameter: Node) -> tuple[str, ...]:
        name = f"<code>{escape(parameter['name'])}</code>" + (" (required)" if parameter.get("required") else "")
        return name, parameter["in"], self._type(parameter["schema"]), _text(parameter.get("description", ""))

    def _content(self, content: Node) -> Iterator[str]:
        if content.get("schema"):
            yield f"<p>{self._type(content['schema'])}</p>"
        yield from _examples("", content)

    def _answers(self, responses: Node) -> Iterator[tuple[str, ...]]:
        for status, answer in responses.items():
            found = self._resolve(answer)
            bodies = [
                f"<code>{escape(media)}</code> {self._type(content.get('schema', {}))}"
                for media, content in found.get("content", {}).items()
            ]
            headers = ", ".join(f"<code>{escape(name)}</code>" for name in found.get("headers", {}))
            about = _text(found["description"]) + (f"<p class=quiet>Headers: {headers}</p>" if headers else "")
            yield f"<code>{status}</code>", about, "<br>".join(bodies)

    def _schema(self, schema: Node) -> Iterator[str]:
        if "properties" not in schema:
            yield f"<p>{self._type(schema)}</p>"
            return
        required = schema.get("required", ())
        yield from _table(
            ("member", "type", "description"),
            (
                (
                    f"<code>{escape(name)}</code>" + (" (required)" if name in required else ""),
                    self._type(each),
                    _text(self._resolve(each).get("description", "")),
                )
                for name, each in schema["properties"].items()
            ),
        )

    def _type(self, schema: Any) -> str:
        """The type in a few words, with a link to a named schema."""
        if not isinstance(schema, Mapping) or not schema:
            return "any"
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f'<a href="#schema-{name}">{name}</a>'
        kind = schema.get("type", "any")
        words = " or ".join(kind) if isinstance(kind, list) else kind
        if kind == "array":
            return f"array of {self._type(schema.get('items', {}))}"
        for each in ("oneOf", "anyOf", "allOf"):
            if each in schema:
                return (" and " if each == "allOf" else " or ").join(self._type(one) for one in schema[each])
        if "enum" in schema:
            words = ", ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
        limits = [
            f"{word} {schema[name]}"
            for name, word in (
                ("minimum", "at least"),
                ("maximum", "at most"),
                ("maxLength", "at most, in characters,"),
            )
            if name in schema
        ]
        return ", ".join([words, *limits])


def _examples(before: str, content: Node) -> Iterator[str]:
    for name, example in content.get("examples", {}).items():
        shown = example["value"]
        text = shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False)
        yield f"<details><summary>Example {before}{escape(example.get('summary', name))}</summary>"
        yield f"<pre tabindex=0><code>{escape(text)}</code></pre></details>"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield '<div class=scroll tabindex=0 role=group aria-label="table"><table><thead><tr>'
    yield from (f"<th scope=col>{head}" for head in heads)
    yield "</thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _text(markdown: str) -> str:
    rendered: str = _MARKDOWN.render(markdown)
    return rendered
