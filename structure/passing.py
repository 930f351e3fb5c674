"""Functions that only pass their call on, and the chains that they form.

A function passes a call on when its body is one call, whose arguments are the function's own parameters: all of them,
in their order, by position or by the same name. The types behind `self.x.f()` are found from annotations and from what
methods assign; a Protocol's method leads to the classes that have all of its methods. Where a type is not found like
this the chain ends.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from structure.sources import Module

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Function:
    """name: qualified by its class. passes_to: what is called, where the call is only passed on: ("f",), or the parts
    of a dotted path such as ("self", "_pool", "release")."""

    name: str
    file: str
    owner: str | None
    passes_to: tuple[str, ...] | None
    is_abstract: bool

    @property
    def method(self) -> str:
        return self.name.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.name} ({self.file})"


@dataclass(slots=True)
class Program:
    """What names lead to. attributes: the class names of each class's attributes. methods: by the method's name."""

    functions: list[Function] = field(default_factory=list)
    attributes: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    methods: dict[str, list[Function]] = field(default_factory=lambda: defaultdict(list))
    plain: dict[str, list[Function]] = field(default_factory=lambda: defaultdict(list))


def longest_chain(modules: Sequence[Module]) -> list[Function]:
    """The longest chain of calls that are passed on; the last function is the one that does something."""
    program = _program(modules)
    chains = (_chain(program, each, frozenset()) for each in program.functions if each.passes_to)
    return max(chains, key=len, default=[])


def passing(modules: Sequence[Module]) -> list[Function]:
    """Every function that only passes its call on to another function of these modules."""
    program = _program(modules)
    return [each for each in program.functions if each.passes_to and _targets(program, each)]


def _chain(program: Program, function: Function, seen: frozenset[str]) -> list[Function]:
    further = (
        _chain(program, target, seen | {str(function)})
        for target in _targets(program, function)
        if str(target) not in seen | {str(function)}
    )
    return [function, *max(further, key=len, default=[])]


def _targets(program: Program, function: Function) -> list[Function]:
    """What the call that `function` passes on may reach."""
    if function.passes_to is None:
        return []
    *path, name = function.passes_to
    if not path:
        return [each for each in program.plain[name] if each.file == function.file] or program.plain[name]
    if path[0] not in {"self", "cls"}:
        return []
    owner = function.owner
    for part in path[1:]:
        owner = program.attributes[owner].get(part) if owner else None
    mine = [each for each in program.methods[name] if each.owner == owner]
    if any(each.is_abstract for each in mine):
        return [each for each in program.methods[name] if not each.is_abstract and _implements(program, each, mine[0])]
    return mine


def _implements(program: Program, function: Function, port: Function) -> bool:
    """Whether the class of `function` has every method of the Protocol that `port` is a method of."""
    return all(
        any(each.owner == function.owner for each in methods)
        for methods in program.methods.values()
        if any(each.owner == port.owner for each in methods)
    )


def _program(modules: Sequence[Module]) -> Program:
    program = Program()
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, FunctionNode):
                function = _function(node, module.file, None)
                program.functions.append(function)
                program.plain[function.method].append(function)
            elif isinstance(node, ast.ClassDef):
                for function in _methods(node, module.file):
                    program.functions.append(function)
                    program.methods[function.method].append(function)
                program.attributes[node.name] |= _attributes(node)
    return program


def _methods(node: ast.ClassDef, file: str) -> Iterator[Function]:
    for each in node.body:
        if isinstance(each, FunctionNode):
            yield _function(each, file, node.name)


def _function(node: FunctionNode, file: str, owner: str | None) -> Function:
    body = _without_docstring(node.body)
    return Function(
        f"{owner}.{node.name}" if owner else node.name,
        file,
        owner,
        _passed_on(node, body, is_method=owner is not None),
        is_abstract=not body or (len(body) == 1 and ast.unparse(body[0]) == "..."),
    )


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.value.value is not ...
    )
    return body[1:] if is_docstring else body


def _passed_on(node: FunctionNode, body: list[ast.stmt], *, is_method: bool) -> tuple[str, ...] | None:
    """The dotted path of the function that the only statement calls with the same arguments."""
    if len(body) != 1 or not isinstance(body[0], ast.Return | ast.Expr):
        return None
    call = body[0].value
    if isinstance(call, ast.Await):
        call = call.value
    if not isinstance(call, ast.Call):
        return None
    parameters = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    if is_method and not any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list):
        parameters = parameters[1:]
    given = [_name(each) for each in call.args]
    given += [each.arg if each.arg == _name(each.value) else None for each in call.keywords]
    return _path(call.func) if given == parameters else None


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """`self._pool.release` as its parts."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := _path(node.value)):
        return (*before, node.attr)
    return None


def _attributes(node: ast.ClassDef) -> dict[str, str]:
    """The class of each attribute, as annotations and assignments to `self` tell it."""
    found: dict[str, str] = {}
    functions = [each for each in node.body if isinstance(each, FunctionNode)]
    returns = {each.name: each.returns for each in functions if each.returns}
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            _note(found, each.target.id, each.annotation)
    for function in functions:
        arguments = (*function.args.args, *function.args.kwonlyargs)
        annotations = {given.arg: given.annotation for given in arguments if given.annotation}
        for statement in ast.walk(function):
            if isinstance(statement, ast.AnnAssign) and (name := _own(statement.target)):
                _note(found, name, statement.annotation)
            elif isinstance(statement, ast.Assign) and (name := _own(statement.targets[0])):
                value = statement.value
                if isinstance(value, ast.Call):
                    _note(found, name, returns.get(_own(value.func), value.func))
                elif isinstance(value, ast.Name) and value.id in annotations:
                    _note(found, name, annotations[value.id])
    return found


def _own(target: ast.expr) -> str:
    """`x` of `self.x`, else empty."""
    is_own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return target.attr if isinstance(target, ast.Attribute) and is_own else ""


def _note(found: dict[str, str], name: str, told: ast.expr) -> None:
    """The first class name in an annotation such as `Pool | None`, or in what is called. The first note counts."""
    if name in found:
        return
    for each in ast.walk(told):
        if isinstance(each, ast.Name) and each.id[:1].isupper():
            found[name] = each.id
            return
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found[name] = each.value
            return
