"""A GPT on one page.

GPT-2's architecture, with a switch for each of its parts (`scratchlab.architecture.GPTSection` says what they are).
Every switch chooses modules or functions once, when the model is built. What is unusual here:

- weights stay in float32; each linear layer casts its weight and input to the compute type (no autocast), so that
  the residual stream, norms, logits and loss are float32 whatever the precision;
- `hidden` stops before the head, because the loss can do the head in chunks (`model/loss.py`);
- the model is built without values; `model/initialize.py` draws each parameter by its name.

Letters in tensor names: B sequences, T tokens, C = d_model, H heads, K heads of keys and values, D = C / H, V
vocabulary, L places that can be looked at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scratchlab.architecture import GPTSection
from scratchlab.errors import UsageError
from scratchlab.model.activations import ACTIVATIONS
from scratchlab.model.attention import KERNELS, multihead_attention, rotation, sinusoids, turned, visible_places
from scratchlab.model.dropout import Dropout
from scratchlab.model.initialize import Table, gpt_table, sinusoid_size
from scratchlab.model.layers import Cache, Linear, make_norm
from scratchlab.model.loss import Readout


@dataclass(frozen=True, slots=True)
class View:
    """What a forward pass may look at, the same for every layer."""

    cache: Cache | None
    rotation: tuple[Tensor, Tensor] | None
    """Cosines and sines of rotary positions."""
    visible: Mapping[int | None, Tensor | None]
    """For each window in use: the mask, or None where causality says it all."""
    places: Tensor
    """(B, T), where in their rows the tokens are."""


class Attention(nn.Module):
    """Causal self-attention with all heads in one product."""

    def __init__(self, config: GPTSection, layer: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        C, D, dtype = config.d_model, config.head_width, torch.float32 if config.float32_attention else compute_dtype
        self.layer, self.window, self.head_width = layer, config.window_of(layer), D
        self.n_head, self.n_kv, self.by_pytorch = config.n_head, config.n_kv, config.attention == "torch"
        self.dropped = config.dropped("attention")
        self.qkv = Linear(C, (config.n_head + 2 * config.n_kv) * D, config.has_bias("qkv"), dtype)
        self.q_norm = make_norm("rms" if config.qk_norm else "none", D, False)
        self.k_norm = make_norm("rms" if config.qk_norm else "none", D, False)
        self.kernel = KERNELS[config.attention](self.dropped)
        self.out = Linear(C, C, config.has_bias("output"), dtype)
        self.dropout = make_dropout(config.dropped("residual"))

    def forward(self, x_BTC: Tensor, view: View) -> Tensor:
        visible = view.visible[self.window]
        if self.by_pytorch and view.cache is None:  # it knows no cache; with one, the fused kernel does the same
            dropped = self.dropped if self.training else 0.0
            return self.dropout(multihead_attention(x_BTC, self.qkv, self.out, self.n_head, visible, dropped))
        B, T, C = x_BTC.shape
        heads = self.qkv(x_BTC).view(B, T, -1, self.head_width).transpose(1, 2)
        q_BHTD, k_BKTD, v_BKTD = heads.split([self.n_head, self.n_kv, self.n_kv], dim=1)
        q_BHTD, k_BKTD = self.q_norm(q_BHTD), self.k_norm(k_BKTD)
        if view.rotation is not None:
            q_BHTD, k_BKTD = turned(q_BHTD, view.rotation), turned(k_BKTD, view.rotation)
        if view.cache is not None:
            k_BKTD, v_BKTD = view.cache.append(self.layer, k_BKTD, v_BKTD, view.places)
        if self.n_kv < self.n_head:
            k_BKTD, v_BKTD = (x.repeat_interleave(self.n_head // self.n_kv, dim=1) for x in (k_BKTD, v_BKTD))
        y_BHTD = self.kernel(q_BHTD, k_BKTD, v_BKTD, visible)
        return self.dropout(self.out(y_BHTD.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Two linear layers with an activation between them; SwiGLU multiplies with an activated gate instead."""

    def __init__(self, config: GPTSection, compute_dtype: torch.dtype) -> None:
        super().__init__()
        dtype = torch.float32 if config.float32_mlp else compute_dtype
        outer, inner, bias = config.d_model, config.mlp_width, config.has_bias("mlp")
        self.gate = Linear(outer, inner, bias, dtype) if config.mlp == "swiglu" else None
        self.up = Linear(outer, inner, bias, dtype)
        self.down = Linear(inner, outer, bias, dtype)
        self.activation, self.dropout = ACTIVATIONS[config.mlp], make_dropout(config.dropped("mlp"))

    def forward(self, x_BTC: Tensor) -> Tensor:
        up = self.up(x_BTC)
        inside = self.activation(up) if self.gate is None else self.activation(self.gate(x_BTC)) * up
        return self.dropout(self.down(inside))


def make_dropout(share: float) -> nn.Module:
    return Dropout(share) if share else nn.Identity()


# How a branch joins the stream: (stream, norm, branch) -> stream.
Join = Callable[[Tensor, nn.Module, Callable[[Tensor], Tensor]], Tensor]
JOINS: Mapping[tuple[str, bool], Join] = {
    ("pre", True): lambda x, norm, branch: x + branch(norm(x)),
    ("pre", False): lambda x, norm, branch: branch(norm(x)).to(x.dtype),
    ("post", True): lambda x, norm, branch: norm(x + branch(x)),
    ("post", False): lambda x, norm, branch: norm(branch(x).to(x.dtype)),
}


class Block(nn.Module):
    """Attention, then the MLP, each with its norm and joined to the stream."""

    def __init__(self, config: GPTSection, layer: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        norm = config.norm, config.d_model, config.has_bias("norm")
        self.join = JOINS[config.norm_position, config.residual]
        self.attention = None
        if config.attention != "none":
            self.attention_norm, self.attention = make_norm(*norm), Attention(config, layer, compute_dtype)
        self.mlp_norm, self.mlp = make_norm(*norm), MLP(config, compute_dtype)

    def forward(self, x_BTC: Tensor, view: View) -> Tensor:
        if (attention := self.attention) is not None:
            x_BTC = self.join(x_BTC, self.attention_norm, lambda x: attention(x, view))
        return self.join(x_BTC, self.mlp_norm, self.mlp)


def recomputed(block: nn.Module, x_BTC: Tensor, view: View) -> Tensor:
    """What the block gives, of which only `x_BTC` is kept: the backward pass computes the rest again, with the same
    random numbers."""
    return checkpoint(block, x_BTC, view, use_reentrant=False)


def remembered(block: nn.Module, x_BTC: Tensor, view: View) -> Tensor:
    """What the block gives, with all that its backward pass needs."""
    return block(x_BTC, view)


def check_places(given: int, most: int) -> None:
    """UsageError for more places than a model has."""
    if given > most:
        raise UsageError(f"This model sees {most} tokens at most (model.context_length); it was given {given}.")


class GPT(nn.Module):
    """`model(tokens_BT, state=None, positions=None, documents=None) -> (logits_BTV, state)`; see `hidden`."""

    def __init__(
        self,
        config: GPTSection,
        vocab_size: int,
        compute_dtype: torch.dtype = torch.float32,
        end_of_text: int | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        """`end_of_text` is the token at which documents part, for `document_mask`."""
        super().__init__()
        if config.document_mask and end_of_text is None:
            raise UsageError("model.document_mask needs a corpus whose documents part at <|endoftext|>; this has none.")
        self.config, self.vocab_size, self.compute_dtype = config, vocab_size, compute_dtype
        self.end_of_text = end_of_text if config.document_mask else None
        self.head_dtype = torch.float32 if config.float32_head else compute_dtype
        self.readout = Readout(config.labels or vocab_size, config.logit_cap)
        self.windows = {config.window_of(layer) for layer in range(config.n_layer)}
        padded = config.padded(vocab_size)
        self.token_embedding = nn.Embedding(padded, config.d_model)
        self.position_embedding = (
            nn.Embedding(config.context_length, config.d_model) if config.positions == "learned" else None
        )
        self.dropout = make_dropout(config.dropped("embedding"))
        self.through = recomputed if activation_checkpointing else remembered
        self.blocks = nn.ModuleList(Block(config, layer, compute_dtype) for layer in range(config.n_layer))
        last = config.norm if config.norm_position == "pre" else "none"  # post-norm has normalized the stream already
        self.final_norm = make_norm(last, config.d_model, config.has_bias("norm"))
        has_head = not config.tie_weights and config.labels is None
        self.head = Linear(config.d_model, padded, False, self.head_dtype) if has_head else None
        self.label_head = Linear(config.d_model, config.labels, False, self.head_dtype) if config.labels else None

    @property
    def head_weight(self) -> Tensor:
        head = self.label_head or self.head
        return self.token_embedding.weight if head is None else head.matrix()

    def hidden(
        self,
        tokens_BT: Tensor,
        state: Cache | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Cache | None]:
        """The normalized residual stream that the head reads, float32 (B, T, C).

        `positions_BT` are the places of the tokens (0, 1, ... after what `state` holds unless given). None may reach
        context_length, to which whoever gives them sees (`check_places`): to look at them here would keep every step
        waiting for the device. Tokens see only those with the same number in `documents_BT`, and those whose number is
        `COMMON`, as all that is cached; `document_mask` numbers them by itself, but with a cache all is one document.
        """
        T, config = tokens_BT.shape[1], self.config
        n_places = T + (max(state.lengths) if state else 0)
        if positions_BT is None:
            check_places(n_places, config.context_length)
        places_BT = torch.arange(T, device=tokens_BT.device)[None]
        if state is not None:
            places_BT = places_BT + torch.tensor(state.lengths, device=tokens_BT.device)[:, None]
        elif self.end_of_text is not None and documents_BT is None:
            documents_BT = (tokens_BT == self.end_of_text).cumsum(1)  # it opens the document that follows it
        positions_BT = places_BT if positions_BT is None else positions_BT
        turns = rotation(positions_BT, config.head_width) if config.positions == "rotary" else None
        visible = self._visible(places_BT, n_places, state, positions_BT, documents_BT)
        x_BTC = self.stream(tokens_BT, positions_BT, View(state, turns, visible, places_BT))
        if state is not None:
            state.advance(T)
        return x_BTC, state

    def stream(self, tokens_BT: Tensor, positions_BT: Tensor, view: View) -> Tensor:
        """What `hidden` gives, for tokens at these positions that look at what `view` lets them."""
        x_BTC = self.dropout(self._embed(tokens_BT, positions_BT))
        for block in self.blocks:
            x_BTC = self.through(block, x_BTC, view)
        x_BTC, head = self.final_norm(x_BTC), self.label_head or self.head
        return x_BTC if head is None else head.operand(x_BTC)

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        x_BTC = self.token_embedding(tokens_BT)
        if self.position_embedding is not None:
            return x_BTC + self.position_embedding(positions_BT)
        if self.config.positions == "sinusoidal":
            return x_BTC + sinusoid_size(self.config) * sinusoids(positions_BT, self.config.d_model)
        return x_BTC

    def _visible(
        self,
        places_BT: Tensor,
        n_places: int,
        cache: Cache | None,
        positions_BT: Tensor,
        documents_BT: Tensor | None,
    ) -> dict[int | None, Tensor | None]:
        """A mask for each window, or None where all that needs saying is that nobody looks ahead."""
        even = cache is None or min(cache.lengths) == max(cache.lengths)
        causal = even and documents_BT is None and places_BT.shape[1] in (1, n_places)
        return {
            window: None
            if causal and (window is None or window >= n_places)
            else visible_places(places_BT, n_places, window, positions_BT, documents_BT)
            for window in self.windows
        }

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Float32 scores of the next token, or of labels, for what `hidden` gave."""
        scores = self.readout.scores(x_BTC.to(self.head_dtype), self.head_weight.to(self.head_dtype))
        return scores[..., : self.readout.vocab_size]

    def forward(
        self,
        tokens_BT: Tensor,
        state: Cache | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Cache | None]:
        if positions is not None:
            check_places(int(positions.max()) + 1, self.config.context_length)
        x_BTC, state = self.hidden(tokens_BT, state, positions, documents)
        return self.logits(x_BTC), state

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the model sees at once; None if there is no end to it."""
        return self.config.context_length

    def initial_table(self) -> Table:
        return gpt_table(self.config)

    def new_state(self, batch_size: int, capacity: int) -> Cache:
        """An empty cache for `batch_size` rows of at most `capacity` tokens (at most context_length)."""
        config = self.config
        shape = (batch_size, config.n_kv, capacity, config.head_width)
        dtype, device = torch.float32 if config.float32_attention else self.compute_dtype, self.head_weight.device
        empty = lambda: torch.zeros(shape, dtype=dtype, device=device)  # noqa: E731
        n_layer = config.n_layer if config.attention != "none" else 0
        return Cache([(empty(), empty()) for _ in range(n_layer)], [0] * batch_size, capacity)
