"""A GPT on one page.

GPT-2's architecture: learned positions, layer norm before each branch, causal self-attention and a four times wider
MLP added to a residual stream, and a head that shares the token embedding. What is unusual here:

- weights stay in float32; each linear layer casts its weight and input to the compute type (no autocast), so that
  the residual stream, norms, logits and loss are float32 whatever the precision;
- `hidden` stops before the head, because the loss can do the head in chunks (`model/loss.py`);
- the model is built without values; `model/initialize.py` draws each parameter by its name.

Letters in tensor names: B sequences, T tokens, C = d_model, H heads, D = C / H, V vocabulary, L places in the cache.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlab.errors import UsageError
from scratchlab.model.activations import ACTIVATIONS
from scratchlab.model.attention import causal_attention
from scratchlab.model.dropout import Dropout
from scratchlab.model.initialize import gpt2_table, initialize
from scratchlab.model.layers import Cache, Linear, product
from scratchlab.recipe import GPTSection


class Attention(nn.Module):
    """Causal self-attention with all heads in one product."""

    def __init__(self, config: GPTSection, layer: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.n_head, self.layer, self.dropout = config.n_head, layer, config.dropout
        self.qkv = Linear(config.d_model, 3 * config.d_model, config.qkv_bias, compute_dtype)
        self.out = Linear(config.d_model, config.d_model, True, compute_dtype)

    def forward(self, x_BTC: Tensor, cache: Cache | None) -> Tensor:
        B, T, C = x_BTC.shape
        heads_3BHTD = self.qkv(x_BTC).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        if cache is not None:
            seen_2BHLD, visible = cache.append(self.layer, heads_3BHTD[1:])
            y_BHTD = F.scaled_dot_product_attention(heads_3BHTD[0], *seen_2BHLD.unbind(0), attn_mask=visible)
        else:
            y_BHTD = causal_attention(*heads_3BHTD.unbind(0), dropout=self.dropout if self.training else 0.0)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTSection, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.up = Linear(config.d_model, 4 * config.d_model, True, compute_dtype)
        self.down = Linear(4 * config.d_model, config.d_model, True, compute_dtype)
        self.activation = ACTIVATIONS[config.mlp]

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BTC)))


class Block(nn.Module):
    """Attention, then the MLP, each on a normalized copy of the stream and added back to it."""

    def __init__(self, config: GPTSection, layer: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config, layer, compute_dtype)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config, compute_dtype)
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x_BTC: Tensor, cache: Cache | None) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC), cache))
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))


class GPT(nn.Module):
    """`model(tokens_BT, state=None) -> (logits_BTV, state)`; the state is a `Cache` or None."""

    def __init__(self, config: GPTSection, vocab_size: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer, compute_dtype) for layer in range(config.n_layer))
        self.final_norm = nn.LayerNorm(config.d_model)
        self.head = None if config.tie_weights else Linear(config.d_model, vocab_size, False, compute_dtype)

    @property
    def head_weight(self) -> Tensor:
        return self.token_embedding.weight if self.head is None else self.head.weight

    def hidden(self, tokens_BT: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache | None]:
        """The normalized residual stream that the head reads, float32 (B, T, C)."""
        T = tokens_BT.shape[1]
        seen, most = T + (max(state.lengths) if state else 0), self.config.context_length
        if seen > most:
            raise UsageError(f"This model sees {most} tokens at most (model.context_length); it was given {seen}.")
        positions = torch.arange(T, device=tokens_BT.device)
        if state is not None:
            positions = positions + torch.tensor(state.lengths, device=tokens_BT.device)[:, None]
        x_BTC = self.dropout(self.token_embedding(tokens_BT) + self.position_embedding(positions))
        for block in self.blocks:
            x_BTC = block(x_BTC, state)
        if state is not None:
            state.advance(T)
        return self.final_norm(x_BTC), state

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Float32 scores of the next token, for what `hidden` gave."""
        return product(x_BTC.to(self.compute_dtype), self.head_weight.to(self.compute_dtype)).float()

    def forward(self, tokens_BT: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache | None]:
        x_BTC, state = self.hidden(tokens_BT, state)
        return self.logits(x_BTC), state

    def new_cache(self, batch_size: int, capacity: int) -> Cache:
        """An empty cache for `batch_size` rows of at most `capacity` tokens (at most context_length)."""
        config = self.config
        shape = (2, batch_size, config.n_head, capacity, config.d_model // config.n_head)
        device = self.head_weight.device
        buffers = [torch.zeros(shape, dtype=self.compute_dtype, device=device) for _ in range(config.n_layer)]
        return Cache(buffers, [0] * batch_size)

    def cast_once(self) -> "GPT":
        """This model for writing: with the weights of its products in the compute type, where each token would cast
        them again. It shares what needs no cast; where nothing does, it is this model itself."""
        if self.head_weight.dtype == self.compute_dtype:
            return self
        with torch.device("meta"):
            untied = self.config.model_copy(update={"tie_weights": False})
            copy = GPT(untied, self.token_embedding.num_embeddings, self.compute_dtype)
        tensors = self.state_dict() | {"head.weight": self.head_weight.detach()}
        for name, module in copy.named_modules():
            if isinstance(module, Linear):
                tensors |= {
                    f"{name}.{part}": tensors[f"{name}.{part}"].to(self.compute_dtype) for part in module.state_dict()
                }
        copy.load_state_dict(tensors, assign=True)
        return copy.eval().requires_grad_(False)


def build_gpt(
    config: GPTSection,
    vocab_size: int,
    seed: int,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GPT:
    """A GPT with GPT-2's initial values for `seed`, on `device`."""
    with torch.device("meta"):
        model = GPT(config, vocab_size, compute_dtype)
    initialize(model, gpt2_table(config.n_layer), seed, device)
    return model
