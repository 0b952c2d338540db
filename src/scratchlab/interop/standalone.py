"""One file out of several of ours: some names of a module, and all that they use, in the words of the sources.

So that an export can carry the model page without a second copy of it being kept. Nothing is rewritten: definitions are
taken with their comments as they stand, in the order of the modules that they come from; imports are gathered.
"""

import ast
import functools
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from scratchlab.architecture import GPTSection

Name = tuple[str, str]
"""A module and a name in it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A definition at the top of a module."""

    line: int
    text: str
    uses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Module:
    """What the top of a source file defines, and what it imports, by name."""

    pieces: dict[str, Piece]
    imports: dict[str, tuple[str, Name]]
    """The line that would import the name alone, and what it imports."""


def standalone(module: str, roots: Sequence[str], instead: Mapping[Name, tuple[str, str]]) -> str:
    """The text of a module that defines `roots` as `module` does, with nothing of ours to import.

    For what is in `instead`, the lines there are imported and the definition there, if any, is taken.
    """
    taken, lines, definitions = set[Name](), set[str](), set[str]()
    waiting = [(module, root) for root in roots]
    while waiting:
        where, what = name = waiting.pop()
        own = _read(where)
        if what in own.pieces and name not in taken:
            taken.add(name)
            waiting += [(where, used) for used in own.pieces[what].uses]
        elif what in own.imports:
            line, origin = own.imports[what]
            if origin in instead:
                imports, definition = instead[origin]
                lines |= set(imports.splitlines())
                definitions |= {definition} - {""}
            elif origin[0].startswith("scratchlab."):
                waiting.append(origin)
            else:
                lines.add(line)
    _check_one_home(taken)
    texts = [*sorted(definitions), *_texts(taken, module)]
    return "\n".join([*_gathered(lines), "", "", "\n\n\n".join(texts)]) + "\n"


def _check_one_home(taken: set[Name]) -> None:
    homes: dict[str, str] = {}
    for where, what in sorted(taken):
        assert homes.setdefault(what, where) == where, f"{what} is in {homes[what]} and in {where}: rename one"


def _texts(taken: set[Name], module: str) -> Iterator[str]:
    """What was taken, each module after those that it imports, and in each as it stands there."""
    homes = {where for where, _ in taken}
    for where in _in_order(module, homes):
        pieces = {piece.line: piece.text for what, piece in _read(where).pieces.items() if (where, what) in taken}
        yield from (pieces[line] for line in sorted(pieces))


@functools.cache
def _read(module: str) -> Module:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    pieces: dict[str, Piece] = {}
    imports: dict[str, tuple[str, Name]] = {}
    lines, above = source.splitlines(), 0
    body = ast.parse(source).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        end = node.end_lineno or above
        if isinstance(following, ast.Expr) and not isinstance(node, ast.Expr):  # a text that explains what it follows
            end = following.end_lineno or end
        names = list(_defined(node))
        if names:
            text = "\n".join(lines[above:end]).strip("\n")
            used = frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            pieces |= dict.fromkeys(names, Piece(node.lineno, text, used))
        for name, line, origin in _imported(node):
            imports[name] = line, origin
        above = end
    return Module(pieces, imports)


def _defined(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case _:
            pass


def _imported(node: ast.stmt) -> Iterator[tuple[str, str, Name]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], f"import {_as(alias)}", (alias.name, "")
    elif isinstance(node, ast.ImportFrom):
        assert node.module is not None, "our imports are absolute"
        for alias in node.names:
            yield alias.asname or alias.name, f"from {node.module} import {_as(alias)}", (node.module, alias.name)


def _as(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def _in_order(module: str, homes: set[str]) -> list[str]:
    """The modules among `homes` that a module leads to, itself last."""
    order: dict[str, None] = {}
    for _, (home, _) in _read(module).imports.values():
        if home in homes and home != module:
            order |= dict.fromkeys(_in_order(home, homes))
    return [*order, *([module] if module in homes else [])]


def _gathered(lines: set[str]) -> list[str]:
    """Import lines, one for each module, plain imports first."""
    plain = sorted(line for line in lines if line.startswith("import "))
    parts: dict[str, list[str]] = {}
    for line in sorted(lines - set(plain)):
        home, _, name = line.partition(" import ")
        parts.setdefault(home, []).append(name)
    ours = [home for home in parts if home.startswith("from .")]
    others = [home for home in parts if home not in ours]
    return [*plain, *(f"{home} import {', '.join(parts[home])}" for home in [*others, *ours])]


def plain_section() -> str:
    """The definition of `GPTSection` as a dataclass, without what checks its fields, which pydantic does."""
    source = inspect.getsource(GPTSection)
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    types, lines = typing.get_type_hints(GPTSection), source.splitlines()
    parts = ["@dataclass(frozen=True)", "class GPTSection:"]
    above = 1
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("model_validator" in ast.unparse(d) for d in node.decorator_list):
            break  # it is the last
        text = "\n".join(lines[above : node.end_lineno])
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            text = f"    {node.target.id}: {_spelled(types[node.target.id])} = {ast.unparse(node.value)}"
        parts.append(text)
        above = node.end_lineno or above
    return "\n".join(parts)


def _spelled(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return " | ".join(map(_spelled, typing.get_args(hint)))
    if hint is NoneType:
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
