"""How a class of transformers keeps a GPT: its settings, its names, and which of our switches it knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.interop.names import Names

Settings = Mapping[str, Any]
"""What is in a `config.json`."""
Values = Mapping[str, tuple[object, ...]]

HEAD = "lm_head.weight"

# Their activations, by ours; theirs have several names.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}
PLAIN = ("gelu_tanh", "gelu", "relu", "relu2")

# What all of them compute, and nothing else.
EVERYWHERE: Values = {
    "norm_position": ("pre",),
    "attention": ("fused", "explicit", "torch"),  # three kernels for the same numbers
    "document_mask": (False,),
    "residual": (True,),
    "logit_cap": (None,),
    "labels": (None,),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A class of transformers that a GPT of ours can be."""

    name: str
    title: str
    """For people."""
    model_type: str
    names: Names
    prefix: str
    """Before each of their names but that of the head."""
    knows: Callable[[GPTSection], Values]
    """The values that some switches can have; the bias of a place is there or not, by whichever name it was asked."""
    biases: Callable[[GPTSection], Mapping[str, bool]]
    """Those it has of the places qkv, output, mlp and norm: zeros where ours has none."""
    settings: Callable[[GPTSection], dict[str, Any]]
    """Its configuration of our model, the vocabulary and special tokens left out."""
    fields: Callable[[Settings, str], dict[str, Any]]
    """Our `[model]` for its configuration. RunError if that is damaged or cannot be built here."""
    fixed: Settings
    """What could be otherwise there, and cannot here."""
    usual: Settings
    """What its settings are where a file leaves them out, if that is not what `fixed` has."""

    def lacks(self, config: GPTSection) -> list[str]:
        """The switches of a model that this class does not have."""
        values = ((name, _value(config, name), known) for name, known in self.knows(config).items())
        return [f"{name} = {value!r}" for name, value, known in values if value not in known]

    def filled(self, config: GPTSection) -> GPTSection:
        """The same model with the biases that the class has, and nothing to pad its vocabulary."""
        biases = {f"{place}_bias": there for place, there in self.biases(config).items()}
        return config.model_copy(update={"bias": False, "vocab_multiple": 1, **biases})

    def theirs(self, name: str) -> str:
        """The whole name of a tensor in their files."""
        return name if name == HEAD else self.prefix + name

    def without_prefix(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(self.prefix): tensor for name, tensor in state.items()}


def _value(config: GPTSection, name: str) -> object:
    match name:
        case "qkv_bias":
            return config.has_bias("qkv")
        case "output_bias":
            return config.has_bias("output")
        case "mlp_bias":
            return config.has_bias("mlp")
        case _:
            return getattr(config, name)


def activation(config: GPTSection) -> str:
    """Their name for our MLP's activation."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.mlp)
