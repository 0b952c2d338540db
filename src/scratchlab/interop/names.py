"""What other programs call the parameters of a GPT, and how theirs become ours and ours theirs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.model.build import empty_model


@dataclass(frozen=True, slots=True)
class Names:
    """Another program's names, by ours; `{}` stands for the number of a layer."""

    table: Mapping[str, str | tuple[str, ...]]
    """Several of theirs are one of ours, stacked in this order: queries, keys and values, or equal parts."""
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
    if config.n_layer > len(theirs):  # before so many layers are built
        raise RunError(f"{origin} has {len(theirs)} tensors, too few for {config.n_layer:,} layers.")
    ours: dict[str, Tensor] = {}
    used: set[str] = set()
    problems: list[str] = []
    for name, shape in shapes_of(config, rows).items():
        parts = names.of(name)
        used |= set(parts)
        wanted = [(height, *shape[1:]) for height in heights(config, name, shape[0], len(parts))]
        wanted = [shape[::-1] if names.turns(name) else shape for shape in wanted]
        pairs = zip(parts, wanted, strict=True)
        if complaints := [wrong for part, shape in pairs if (wrong := _complaint(part, theirs.get(part), shape))]:
            problems += complaints
            continue
        found = torch.cat([theirs[part] for part in parts])
        ours[name] = (found.T if names.turns(name) else found).to(torch.float32).contiguous()
    problems += [f"{name} is nothing this model has" for name in theirs if name not in used]
    if problems:
        raise RunError(f"{origin} does not hold this model's tensors: {listed(problems)}.")
    return ours


def heights(config: GPTSection, name: str, rows: int, parts: int) -> list[int]:
    """How many rows of one of our tensors each of its parts has: keys and values may have fewer than queries."""
    if parts == 3 and ".qkv." in name:
        return [count * config.head_width for count in (config.n_head, config.n_kv, config.n_kv)]
    return [rows // parts] * parts


def _complaint(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> str | None:
    """What is wrong with one of their tensors."""
    if tensor is None:
        return f"{name} is missing"
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
        return f"{name} is {str(kind).removeprefix('torch.')}, not plain floating-point numbers"
    if tuple(tensor.shape) != shape:
        return f"{name} is {tuple(tensor.shape)} where {shape} is expected"
    return None if bool(torch.isfinite(tensor).all()) else f"{name} holds numbers that are not finite"


def tied(theirs: Mapping[str, Tensor], embedding: str, head: str, origin: str) -> dict[str, Tensor]:
    """The tensors of a model whose head is its embedding, which may be saved under either name or under both."""
    kept = dict(theirs)
    copy = kept.pop(head, None)
    if copy is not None and not _same(kept.setdefault(embedding, copy), copy):
        raise RunError(f"{origin}: its head is said to be tied, and yet {head} is not {embedding}.")
    return kept


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.layout == b.layout and a.dtype == b.dtype and torch.equal(a, b))


def to_theirs(ours: Mapping[str, Tensor], config: GPTSection, names: Names) -> dict[str, Tensor]:
    """Their tensors out of our parameters: `to_ours` the other way."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        parts = names.of(name)
        pieces = tensor.split(heights(config, name, len(tensor), len(parts)))
        turns = names.turns(name)
        theirs |= {p: (x.T if turns else x).contiguous() for p, x in zip(parts, pieces, strict=True)}
    return theirs


def listed(problems: list[str], most: int = 6) -> str:
    """The first few of many problems."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
