"""`[model]` of a recipe: what a GPT or a recurrent network is made of, switch by switch."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scratchlab.sections import Count, Section, Share


class GPTSection(Section):
    """`[model]` of a GPT. The defaults are GPT-2's. A field left at None takes the value of another."""

    architecture: Literal["gpt"] = "gpt"
    n_layer: Count = 12
    n_head: Count = 12
    n_kv_head: Count | None = None
    """Heads of keys and values, each shared by several heads of queries (Ainslie et al. 2023); None: n_head."""
    d_model: Count = 768
    context_length: Count = 1024
    norm: Literal["layer", "rms", "none"] = "layer"
    norm_position: Literal["pre", "post"] = "pre"
    """Before each branch, on a copy of the stream (GPT-2), or after it, on the stream itself (Vaswani et al. 2017)."""
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    attention: Literal["fused", "explicit", "torch", "none"] = "fused"
    """PyTorch's fused kernel; written out, so that its weights can be looked at; PyTorch's MultiheadAttention."""
    qk_norm: bool = False
    """Whether queries and keys pass through an RMS norm of their own (Dehghani et al. 2023)."""
    window: Count | None = None
    """How many tokens a token sees, itself included; None: all before it."""
    window_layers: Literal["all", "alternate"] = "all"
    """Which layers have the window: all, or every second one, beginning with a dense one (Brown et al. 2020)."""
    document_mask: bool = False
    """Whether attention stops at `<|endoftext|>`."""
    mlp: Literal["gelu_tanh", "gelu", "relu", "relu2", "swiglu"] = "gelu_tanh"
    """GELU by GPT-2's tanh approximation, exact GELU (nanoGPT's; a good deal faster on a CPU), ReLU (the lecture's),
    squared ReLU, SwiGLU."""
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] = 4.0
    """Width of the MLP's inside over d_model. SwiGLU has three matrices where the others have two."""
    residual: bool = True
    bias: bool = True
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    """Of attention's output projection."""
    mlp_bias: bool | None = None
    norm_bias: bool | None = None
    """Each None: as `bias`. RMS norms have none."""
    dropout: Share = 0.0
    dropout_embedding: Share | None = None
    dropout_attention: Share | None = None
    """Of the attention weights."""
    dropout_residual: Share | None = None
    """Of what attention adds to the stream."""
    dropout_mlp: Share | None = None
    """Of what the MLP adds to the stream. Each None: as `dropout`."""
    tie_weights: bool = True
    """Whether the head is the token embedding (the book's model has two matrices)."""
    labels: Annotated[int, Field(ge=2)] | None = None
    """How many labels a text may have: the head then says at each token which the text up to there has, instead of
    which token comes next. None: a model of language."""
    logit_cap: Annotated[float, Field(ge=1)] | None = None
    """Logits pass through cap tanh(x / cap), so that none exceeds it (Gemma Team 2024)."""
    vocab_multiple: Count = 1
    """The vocabulary is padded to a multiple of this, for speed; padding is never sampled or counted."""
    initialization: Literal["gpt2", "pytorch", "book", "zero_output", "width_scaled"] = "gpt2"
    """See `scratchlab.model.initialize`."""
    float32_attention: bool = False
    float32_mlp: bool = False
    float32_head: bool = False
    """Parts that compute in float32 whatever `training.precision` says. (Norms, softmax and loss always do.)"""

    @property
    def remembers(self) -> bool:
        """Whether what was read goes on from one window to the next."""
        return False

    @property
    def n_kv(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_head

    @property
    def mlp_width(self) -> int:
        return round(self.mlp_ratio * self.d_model)

    def has_bias(self, place: Literal["qkv", "output", "mlp", "norm"]) -> bool:
        own: bool | None = getattr(self, f"{place}_bias")
        return self.bias if own is None else own

    def dropped(self, place: Literal["embedding", "attention", "residual", "mlp"]) -> float:
        own: float | None = getattr(self, f"dropout_{place}")
        return self.dropout if own is None else own

    def window_of(self, layer: int) -> int | None:
        return self.window if self.window_layers == "all" or layer % 2 else None

    def head_rows(self, vocab_size: int) -> int:
        """Scores that the head gives: of labels, or of a vocabulary with its padding."""
        return self.labels or self.padded(vocab_size)

    def padded(self, vocab_size: int) -> int:
        return -(-vocab_size // self.vocab_multiple) * self.vocab_multiple

    @model_validator(mode="after")
    def makes_sense(self) -> Self:
        if complaints := list(_gpt_complaints(self)):
            raise ValueError("; ".join(complaints))
        return self


def _gpt_complaints(m: GPTSection) -> Iterator[str]:
    """What makes no sense together, the plainest first."""
    if m.d_model % m.n_head:
        yield f"d_model ({m.d_model}) must be a multiple of n_head ({m.n_head}): each head takes an equal part"
    if m.n_head % m.n_kv:
        yield f"n_head ({m.n_head}) must be a multiple of n_kv_head ({m.n_kv}): as many heads share each"
    if m.mlp_width < 1:
        yield f"mlp_ratio ({m.mlp_ratio}) leaves the MLP no width at d_model {m.d_model}"
    if m.attention == "none":
        # What asks for nothing (a bias or a dropout of a base that is switched off) is left alone.
        useless = [name for name in NEEDS_ATTENTION if getattr(m, name) not in (None, False, 0.0)]
        if useless or m.positions == "rotary":
            yield f"attention = 'none' leaves nothing for {(useless or ['rotary positions'])[0]} to act on"
    if m.attention == "torch" and (m.positions == "rotary" or m.qk_norm or m.n_kv != m.n_head):
        yield "attention = 'torch' (PyTorch's MultiheadAttention) has no rotary positions, no qk_norm and no n_kv_head"
    if m.positions == "rotary" and m.head_width % 2:
        yield f"positions = 'rotary' turns pairs of numbers, so d_model / n_head ({m.head_width}) must be even"
    if m.positions == "sinusoidal" and m.d_model % 2:
        yield f"positions = 'sinusoidal' has sines and cosines in pairs, so d_model ({m.d_model}) must be even"
    if m.window is not None and m.window >= m.context_length:
        yield f"window ({m.window}) must be less than context_length ({m.context_length}), or it hides nothing"
    if m.window_layers == "alternate" and (m.window is None or m.n_layer < 2):
        yield "window_layers = 'alternate' needs a window and a second layer (the first is dense)"
    if m.norm == "none" and (m.norm_position != "pre" or m.norm_bias is not None):
        yield "norm = 'none' has no norm_position and no norm_bias"
    if m.norm == "rms" and m.norm_bias:
        yield "norm = 'rms' has no bias: leave norm_bias out"
    if m.norm == "none" and not m.residual:
        yield "norm = 'none' needs residual = true: without either the signal dies out within a few layers"
    if m.initialization == "zero_output" and not m.residual:
        yield "initialization = 'zero_output' needs residual = true: nothing would reach the head, nor any gradient"


NEEDS_ATTENTION = (
    "n_kv_head",
    "window",
    "qkv_bias",
    "output_bias",
    "dropout_attention",
    "dropout_residual",
    "qk_norm",
    "document_mask",
    "float32_attention",
)

# Fields that take another's value where they are left out, so that saying the same twice changes no fingerprint.
INHERITED = {
    "n_kv_head": "n_head",
    **{f"{place}_bias": "bias" for place in ("qkv", "output", "mlp", "norm")},
    **{f"dropout_{place}": "dropout" for place in ("embedding", "attention", "residual", "mlp")},
}


class RNNSection(Section):
    """`[model]` of a recurrent network. The defaults are char-rnn's."""

    architecture: Literal["rnn"]
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    n_layer: Count = 2
    d_model: Count = 128
    """Width of each layer's hidden state."""
    context_length: Count = 50
    """Tokens through which gradients flow back. What is remembered goes on from one stretch to the next."""
    embedding: Literal["one_hot", "learned"] = "one_hot"
    dropout: Share = 0.0
    """Of what each layer gives to the next, and the last one to the head."""
    kernel: Literal["fused", "explicit"] = "fused"
    """torch.nn's, or the page's own cells, which are slow and plain to see."""
    initialization: Literal["pytorch", "char_rnn"] = "pytorch"
    """See `scratchlab.model.initialize`."""

    @property
    def remembers(self) -> bool:
        """Whether what was read goes on from one window to the next."""
        return True


ModelSection = GPTSection | RNNSection
