"""What is wrong with a recipe, or a request: what pydantic found, a line a field, with the field that may be meant."""

import difflib
import typing
from typing import Any

from pydantic import BaseModel


def describe_all(problems: list[dict[str, Any]], root: type[BaseModel], whole: str = "recipe") -> list[str]:
    """One line a field, or for the `whole`. A field that may be of two types fails once for each: what each expects is
    joined by "or"."""
    expected: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    lines: list[str] = []
    for problem in problems:
        problem["loc"] = _without_tags(problem["loc"])
        path = ".".join(str(part) for part in problem["loc"])
        place = _field_part(problem["loc"], root)
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"{path}: there is no such field{_suggest(path, root)}.")
            case "missing":
                lines.append(f"{path}: this field is needed.")
            case "value_error":
                lines.append(f"{place or whole}: {problem['ctx']['error']}.")
            case "union_tag_invalid":
                lines.append(f"model.architecture: should be {problem['ctx']['expected_tags'].replace(',', ' or')}.")
            case "union_tag_not_found" | "model_type":
                lines.append(f"{place or whole}: should be a section of fields, not {problem['input']!r}.")
            case "string_pattern_mismatch":
                expected.setdefault(place, []).append(f"of the form {problem['ctx']['pattern'].strip('^$')}")
            case _:
                expected.setdefault(place, []).append(problem["msg"].removeprefix("Input should be "))
        given[place] = problem["input"]
    lines += [f"{place}: should be {' or '.join(what)}, not {given[place]!r}." for place, what in expected.items()]
    return sorted(lines)


def _without_tags(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A pydantic location without the name of the union's branch, which is no field."""
    return (location[0], *location[2:]) if location[:1] == ("model",) and len(location) > 1 else location


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold: one, or a choice of several, or none where it holds a value."""
    choices = [inner for choice in typing.get_args(annotation) for inner in _sections(choice)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else choices


def _field_part(location: tuple[str | int, ...], root: type[BaseModel]) -> str:
    """The dotted field at the start of a pydantic location, which goes on with the branch of a union."""
    known: list[type[BaseModel]] = [root]
    fields: list[str] = []
    for part in location:
        annotations = [section.model_fields[str(part)].annotation for section in known if part in section.model_fields]
        if not annotations:
            break
        fields.append(str(part))
        known = [inner for annotation in annotations for inner in _sections(annotation)]
    return ".".join(fields)


def _suggest(dotted: str, root: type[BaseModel]) -> str:
    names = [*field_names(root), *root.model_fields]
    if dotted in names:
        return f" where {dotted.partition('.')[0]}.architecture is what it is here"
    near = difflib.get_close_matches(dotted, names, n=1, cutoff=0.6)
    last = dotted.rpartition(".")[2]
    near = near or [name for name in names if name.rpartition(".")[2] == last]
    return f" (did you mean {near[0]}?)" if near else ""


def field_names(root: type[BaseModel]) -> list[str]:
    """Every dotted field there can be."""
    names: dict[str, None] = {}
    for section, field in root.model_fields.items():
        choices = _sections(field.annotation)
        names |= {f"{section}.{name}": None for choice in choices for name in choice.model_fields} or {section: None}
    return list(names)
