"""A recurrent network on one page: what came before the transformer.

Characters or bytes go in one at a time; a hidden state carries what was read; a head predicts the next. Elman's cell
(1990), the LSTM (Hochreiter and Schmidhuber 1997, with Gers's forget gate) and the GRU (Cho et al. 2014) are written
out below; the fast path is torch.nn's, over the very same parameters. What is unusual here:

- the recurrent part computes in float32 whatever the precision;
- `hidden` gives one number more than the hidden width, a 1, so that the head's last column is its bias;
- the state is carried over from one stretch of text to the next, without its gradient (truncated backpropagation).

Letters in tensor names: B sequences, T tokens, C hidden width, G gates of a cell, V vocabulary, N layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlab.architecture import RNNSection
from scratchlab.model.dropout import Dropout
from scratchlab.model.initialize import Table, rnn_table
from scratchlab.model.loss import Readout


@dataclass
class Carried:
    """What a recurrent network remembers: one (N, B, C) tensor, or two for the LSTM (hidden, then memory)."""

    parts: tuple[Tensor, ...]

    @staticmethod
    def joined(pieces: "Sequence[Carried]") -> "Carried":
        """The rows of all of them, without their gradients."""
        parts = zip(*(piece.parts for piece in pieces), strict=True)
        return Carried(tuple(torch.cat(part, dim=1).detach() for part in parts))

    def rows(self, first: int, stop: int) -> "Carried":
        return Carried(tuple(part[:, first:stop] for part in self.parts))

    def has_room(self, n_new: int) -> bool:
        """Always, where a GPT's cache fills up."""
        return True

    def add(self, other: "Carried") -> None:
        """The rows of `other` join at the end."""
        self.parts = Carried.joined([self, other]).parts

    def drop(self, row: int) -> None:
        """A row leaves, and the last one takes its place."""
        last = self.parts[0].shape[1] - 1
        kept = [last if place == row else place for place in range(last)]
        self.parts = tuple(part[:, kept] for part in self.parts)


def elman_cell(from_input: Tensor, from_hidden: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """h' = tanh(input + recurrence)."""
    return (torch.tanh(from_input + from_hidden),)


def gru_cell(from_input: Tensor, from_hidden: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A gate that resets, one that keeps: h' = keep h + (1 - keep) tanh(input + reset recurrence)."""
    (reset_in, keep_in, new_in), (reset_hid, keep_hid, new_hid) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
    reset, keep = torch.sigmoid(reset_in + reset_hid), torch.sigmoid(keep_in + keep_hid)
    return ((1 - keep) * torch.tanh(new_in + reset * new_hid) + keep * parts[0],)


def lstm_cell(from_input: Tensor, from_hidden: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A memory that is written, kept and read by gates: c' = forget c + write tanh(new); h' = read tanh(c')."""
    write, forget, new, read = (from_input + from_hidden).chunk(4, -1)
    memory = torch.sigmoid(forget) * parts[1] + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(read) * torch.tanh(memory), memory


# Each cell: (input's part of the gates, the hidden state's part, the parts of the state) -> the new parts.
Cell = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
CELLS: Mapping[str, Cell] = {"elman": elman_cell, "gru": gru_cell, "lstm": lstm_cell}
FAST: Mapping[str, Callable[..., nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RNN(nn.Module):
    """`model(tokens_BT, state=None) -> (logits_BTV, state)`; the state is a `Carried`."""

    def __init__(self, config: RNNSection, vocab_size: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.compute_dtype = self.head_dtype = compute_dtype
        self.readout, self.end_of_text = Readout(vocab_size), None
        learned = config.embedding == "learned"
        self.token_embedding = nn.Embedding(vocab_size, config.d_model) if learned else None
        width = config.d_model if learned else vocab_size
        between = config.dropout if config.n_layer > 1 else 0.0
        self.layers = FAST[config.cell](width, config.d_model, config.n_layer, batch_first=True, dropout=between)
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()
        self.head_weight = nn.Parameter(torch.empty(vocab_size, config.d_model + 1))

    def hidden(self, tokens_BT: Tensor, state: Carried | None = None) -> tuple[Tensor, Carried]:
        """What the head reads, float32 (B, T, C + 1), and the state after the last token."""
        state = self.new_state(len(tokens_BT)) if state is None else state
        x_BTC = self._embed(tokens_BT)
        if self.config.kernel == "explicit":
            x_BTC, state = self._unrolled(x_BTC, state)
        else:
            carried = state.parts if self.config.cell == "lstm" else state.parts[0]
            x_BTC, carried = self.layers(x_BTC, carried)
            state = Carried(carried if isinstance(carried, tuple) else (carried,))
        return F.pad(self.dropout(x_BTC), (0, 1), value=1.0), state

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        if self.token_embedding is not None:
            return self.token_embedding(tokens_BT)
        return F.one_hot(tokens_BT, self.vocab_size).to(self.head_weight.dtype)

    def _unrolled(self, x_BTC: Tensor, state: Carried) -> tuple[Tensor, Carried]:
        """The same, token by token and cell by cell."""
        cell, layers = CELLS[self.config.cell], self.layers
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(self.config.n_layer):
            weight_in, weight_hid, bias_in, bias_hid = layers.all_weights[layer]
            parts, outputs = tuple(part[layer] for part in state.parts), []
            for x_BC in F.linear(x_BTC, weight_in, bias_in).unbind(1):
                parts = cell(x_BC, F.linear(parts[0], weight_hid, bias_hid), parts)
                outputs.append(parts[0])
            x_BTC = torch.stack(outputs, dim=1)
            if layer + 1 < self.config.n_layer:
                x_BTC = F.dropout(x_BTC, layers.dropout, self.training)
            ends.append(parts)
        return x_BTC, Carried(tuple(torch.stack(part) for part in zip(*ends, strict=True)))

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Float32 scores of the next token, for what `hidden` gave."""
        return self.readout.scores(x_BTC.to(self.head_dtype), self.head_weight.to(self.head_dtype))

    def forward(self, tokens_BT: Tensor, state: Carried | None = None) -> tuple[Tensor, Carried]:
        x_BTC, state = self.hidden(tokens_BT, state)
        return self.logits(x_BTC), state

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the model sees at once; None if there is no end to it."""
        return None

    def initial_table(self) -> Table:
        return rnn_table(self.config)

    def new_state(self, batch_size: int, capacity: int = 0) -> Carried:
        """Nothing read yet: zeros. It holds text of any length, so `capacity` is for the GPT's cache alone."""
        shape = (self.config.n_layer, batch_size, self.config.d_model)
        return Carried(tuple(self.head_weight.new_zeros(shape) for _ in range(1 + (self.config.cell == "lstm"))))
