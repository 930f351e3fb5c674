"""Finds the resource of a path. Starlette's router, for other ASGI servers, is made from the same list of routes.

1. The first route of the list that matches counts, as in Starlette. A test compares the two.
2. A parameter is one segment of a path, and not empty.
3. A path that no route matches may be another way to write a path of the list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, NoReturn

from starlette import routing
from starlette.types import Receive, Scope, Send

from gateway.api.context import RequestContext
from gateway.api.exchange import Resource

REMEMBERED: Final = 256
REMEMBERED_CHARACTERS: Final = 64
"""Clients repeat the paths of a few queues. Those of leases are longer, and come once."""


class Route(NamedTuple):
    """One path. path: a template, with parameters like `{queue}`."""

    path: str
    resource: Resource


class RouteTable:
    """Every path. unknown: raises the error for paths that no route matches. other_path: see rule 3; None if it is no
    such path. router: Starlette's, see `through`. names: the method and path of each operation."""

    def __init__(
        self,
        routes: Sequence[Route],
        unknown: Callable[[RequestContext], NoReturn],
        other_path: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._unknown = unknown
        self._other_path = other_path
        self._shapes: dict[int, list[_Shape]] = {}
        self._found: dict[str, tuple[Resource, Mapping[str, str]]] = {}
        self.names = {
            operation: f"{method} {route.path}" for route in routes for method, operation in route.resource.operations
        }
        for route in routes:
            route.resource.template = route.path
            self._add(route.path, route.resource)

        async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
            path = other_path(scope["path"])
            if path is None or self._find(path) is None:
                unknown(RequestContext.of(scope))
            await self.router({**scope, "path": path}, receive, send)

        starlette_routes = [routing.Route(route.path, route.resource) for route in routes]
        self.router = routing.Router(starlette_routes, redirect_slashes=False, default=not_found)

    def find(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        """The resource of the decoded path, and the parameters in the path. None if no route matches."""
        found = self._find(path)
        if found is None and (other := self._other_path(path)) is not None:
            return self._find(other)
        return found

    def _find(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        parts = path.split("/")
        for shape in self._shapes.get(len(parts), ()):
            resource = shape.resources.get(shape.fixed(parts))
            if resource is not None:
                params = {name: parts[at] for name, at in shape.params}
                if all(params.values()):
                    return resource, params
        return None

    def serve(self, context: RequestContext) -> Awaitable[None]:
        """Answers one request. Raises GatewayError."""
        path = context.request.path
        found = self.look_up(path)
        if found is None:
            self._unknown(context)
        resource, context.path_params = found
        return resource.run(context)

    def look_up(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        """Like `find`, and remembers a short path."""
        found = self._found.get(path)
        if found is not None:
            return found
        found = self.find(path)
        if found is not None and len(path) <= REMEMBERED_CHARACTERS:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[path] = found
        return found

    def through(self, scope: Scope, receive: Receive, send: Send) -> Callable[[RequestContext], Awaitable[None]]:
        """Like `serve`, for a request of an ASGI server: through Starlette's router."""

        def serve(context: RequestContext) -> Awaitable[None]:
            scope["path"] = context.request.path
            context.put_into(scope)
            return self.router(scope, receive, send)

        return serve

    def _add(self, template: str, resource: Resource) -> None:
        parts = template.split("/")
        params = tuple((part[1:-1], at) for at, part in enumerate(parts) if part.startswith("{"))
        shapes = self._shapes.setdefault(len(parts), [])
        shape = next((each for each in shapes if each.params == params), None)
        if shape is None:
            shape = _Shape(params, itemgetter(*(at for at, part in enumerate(parts) if not part.startswith("{"))))
            shapes.append(shape)
        shape.resources[shape.fixed(parts)] = resource


class _Shape:
    """Templates with the same parameters at the same places. fixed: the other segments of a path, as a key."""

    __slots__ = ("fixed", "params", "resources")

    def __init__(self, params: tuple[tuple[str, int], ...], fixed: Callable[[Sequence[str]], Any]) -> None:
        self.params = params
        self.fixed = fixed
        self.resources: dict[Any, Resource] = {}
