"""What other programs call the parameters of a GPT, and how theirs become ours and ours theirs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlab.errors import RunError
from scratchlab.model.build import empty_model
from scratchlab.recipe import GPTSection


@dataclass(frozen=True, slots=True)
class Names:
    """Another program's names, by ours; `{}` stands for the number of a layer."""

    table: Mapping[str, str | tuple[str, ...]]
    """Several of theirs are one of ours, stacked in this order."""
    turned: frozenset[str] = frozenset()
    """Ours that they keep as (inputs, outputs), where we keep (outputs, inputs)."""

    def of(self, ours: str) -> tuple[str, ...]:
        """What they call one of our parameters."""
        pattern, layer = _without_number(ours)
        theirs = self.table[pattern]
        return tuple(name.format(layer) for name in ((theirs,) if isinstance(theirs, str) else theirs))

    def turns(self, ours: str) -> bool:
        return _without_number(ours)[0] in self.turned


def _without_number(name: str) -> tuple[str, str]:
    found = re.match(r"blocks\.(\d+)\.", name)
    return (name.replace(f".{found[1]}.", ".{}.", 1), found[1]) if found else (name, "")


def shapes_of(config: GPTSection, rows: int) -> dict[str, tuple[int, ...]]:
    """The shape of each of our parameters, for an embedding of so many rows."""
    model = empty_model(config, rows, end_of_text=0)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def to_ours(
    theirs: Mapping[str, Tensor], config: GPTSection, rows: int, names: Names, origin: str
) -> dict[str, Tensor]:
    """Our parameters out of their tensors, in float32. `RunError` names all that is missing, unknown or misshapen."""
    ours: dict[str, Tensor] = {}
    used: set[str] = set()
    problems: list[str] = []
    for name, shape in shapes_of(config, rows).items():
        parts = names.of(name)
        used |= set(parts)
        if missing := [part for part in parts if part not in theirs]:
            problems += [f"{part} is missing" for part in missing]
            continue
        found = torch.cat([theirs[part] for part in parts])
        found = found.T if names.turns(name) else found
        if not found.is_floating_point():
            problems.append(f"{parts[0]} is {str(found.dtype).removeprefix('torch.')}, not a floating-point type")
        elif tuple(found.shape) != shape:
            problems.append(f"{' with '.join(parts)} is {tuple(found.shape)} where {shape} is expected")
        else:
            ours[name] = found.to(torch.float32).contiguous()
    problems += [f"{name} is nothing this model has" for name in theirs if name not in used]
    if problems:
        raise RunError(f"{origin} does not hold this model's tensors: {listed(problems)}.")
    return ours


def tied(theirs: Mapping[str, Tensor], embedding: str, head: str, origin: str) -> dict[str, Tensor]:
    """The tensors of a model whose head is its embedding, which may be saved under either name or under both."""
    kept = dict(theirs)
    copy = kept.pop(head, None)
    if copy is not None and not torch.equal(kept.setdefault(embedding, copy), copy):
        raise RunError(f"{origin}: its head is said to be tied, and yet {head} is not {embedding}.")
    return kept


def to_theirs(ours: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """The same the other way."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        tensor = tensor.T if names.turns(name) else tensor
        parts = names.of(name)
        theirs |= {part: piece.contiguous() for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)}
    return theirs


def listed(problems: list[str], most: int = 6) -> str:
    """The first few of many problems."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
