"""Low-rank adapters on one page (LoRA; Hu et al. 2021).

A matrix W that another run has learned stays as it is, and beside it learns a product of two thin ones:

    y = x Wᵀ + scale drop(x) Aᵀ Bᵀ        W (n_out, n_in), A (rank, n_in), B (n_out, rank), scale = alpha / rank

B begins at zero, so that the model begins as the one it was. What is unusual here:

- adapters are put beside the layers of the one model (`adapt`) and taken into them again (`merged`); there is no
  second model;
- queries, keys and values come out of one matrix, and each of the three has an adapter of its own: their A's lie
  above each other in one tensor, and so do their B's;
- the loss does the product of the head by itself, in chunks, so an adapter of the head hands it more columns:
  [x, scale drop(x) Aᵀ] [W, B]ᵀ is the same sum;
- norms, biases and embeddings are frozen too, and so is a head that is the token embedding; a head of labels is
  trained itself where it has no adapter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scratchlab.architecture import GPTSection
from scratchlab.errors import UsageError
from scratchlab.model.build import Model
from scratchlab.model.gpt import GPT, make_dropout
from scratchlab.model.layers import Linear, product
from scratchlab.recipe import FinetuningSection

Part = tuple[int, bool]
"""Rows of a matrix, and whether they have an adapter."""


class AdaptedLinear(Linear):
    """A linear layer whose own weights are frozen, with an adapter beside each part of them that has one.

    `lora_a` is (parts rank, n_in), `lora_b` (rows of those parts, rank), both float32.
    """

    def __init__(self, plain: Linear, parts: Sequence[Part], finetuning: FinetuningSection) -> None:
        with torch.device("meta"):
            super().__init__(plain.in_features, plain.out_features, plain.has_bias, plain.compute_dtype)
        assert finetuning.lora_rank is not None
        self.weight, self.bias = plain.weight, plain.bias
        self.parts, self.adapted = tuple(parts), [rows for rows, has_adapter in parts if has_adapter]
        self.rank, self.scale = finetuning.lora_rank, scale_of(finetuning)
        self.dropout = make_dropout(finetuning.lora_dropout)
        a, b = (len(self.adapted) * self.rank, plain.in_features), (sum(self.adapted), self.rank)
        self.lora_a = nn.Parameter(torch.empty(a, device=plain.weight.device))
        self.lora_b = nn.Parameter(torch.empty(b, device=plain.weight.device))

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.compute_dtype)
        lows, bs = self.low(x).split(self.rank, -1), self.lora_b.to(x.dtype).split(self.adapted)
        made = map(product, lows, bs)
        pieces = [next(made) if adapted else x.new_zeros(*x.shape[:-1], rows) for rows, adapted in self.parts]
        return super().forward(x) + self.scale * (pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1))

    def low(self, x: Tensor) -> Tensor:
        """What the adapters make of it first: (..., parts rank)."""
        return product(self.dropout(x), self.lora_a.to(x.dtype))

    def operand(self, x: Tensor) -> Tensor:
        low = self.low(x.to(self.compute_dtype))
        return torch.cat([x, (self.scale * low).to(x.dtype)], -1)

    def matrix(self) -> Tensor:
        return torch.cat([self.weight, self.lora_b], -1)

    def merged_weight(self) -> Tensor:
        """W + scale B A, float32: added up in float64 and rounded once, wherever it is done."""
        # A TF32 product would be another on a GPU than on a CPU. (Apple's GPUs have neither it nor float64.)
        wide = torch.float32 if self.weight.device.type == "mps" else torch.float64
        weight, a, b = (x.to(wide) for x in (self.weight, self.lora_a, self.lora_b))
        made = map(torch.matmul, b.split(self.adapted), a.split(self.rank))
        pieces = [next(made) if adapted else weight.new_zeros(rows, self.in_features) for rows, adapted in self.parts]
        return (weight + self.scale * torch.cat(pieces)).to(self.weight.dtype)


def scale_of(finetuning: FinetuningSection) -> float:
    """What the product of an adapter is multiplied by."""
    assert finetuning.lora_rank is not None
    return 1.0 if finetuning.lora_alpha is None else finetuning.lora_alpha / finetuning.lora_rank


def adapt(model: Model, finetuning: FinetuningSection) -> Model:
    """Put adapters beside the layers that `finetuning` names, in place, and freeze all else; gives the model.

    Where it names no rank, nothing is done. What a model computes stays the same while every B is zero.
    """
    if finetuning.lora_rank is None:
        return model
    if not isinstance(model, GPT):
        raise UsageError("Adapters (finetuning.lora_rank) are for GPTs: a recurrent network has no layers for them.")
    model.requires_grad_(False)
    for path, layer in list(model.named_modules()):
        inside, _, name = path.rpartition(".")
        if isinstance(layer, Linear) and name in finetuning.adapted_layers:
            parts = parts_of(name, layer, model.config, finetuning)
            setattr(model.get_submodule(inside), name, AdaptedLinear(layer, parts, finetuning).train(layer.training))
        elif name == "label_head":  # it was drawn afresh, and means nothing yet
            layer.requires_grad_(True)
    return model


def parts_of(name: str, layer: Linear, config: GPTSection, finetuning: FinetuningSection) -> list[Part]:
    """Queries, keys and values of the layer that makes them; any other layer is one part."""
    if name != "qkv":
        return [(layer.out_features, True)]
    queries, others = config.n_head * config.head_width, config.n_kv * config.head_width
    return [(queries, True), (others, finetuning.lora_layers != "query_value"), (others, True)]


def merged(model: Model) -> Model:
    """The plain model that computes the same: adapters are added to their matrices, and all else is shared.

    It trains nothing. A model without adapters is given back as it is.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, AdaptedLinear)}
    if not layers or not isinstance(model, GPT):
        return model
    with torch.device("meta"):
        plain = GPT(model.config, model.vocab_size, model.compute_dtype, model.end_of_text)
    own = {name: parameter.detach() for name, parameter in model.named_parameters() if not is_adapter(name)}
    with torch.no_grad():
        weights = {f"{path}.weight": layer.merged_weight() for path, layer in layers.items()}
    plain.load_state_dict(own | weights, assign=True)
    return plain.requires_grad_(False).train(model.training)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return name.endswith((".lora_a", ".lora_b"))
