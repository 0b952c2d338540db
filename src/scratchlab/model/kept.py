"""What a forward pass keeps for the backward pass, in bytes, by formula: activations, and weights in the compute type.

The formulae follow the pages: a line here for a tensor there that autograd holds on to. They are exact for what runs
uncompiled on a CPU (a test holds them to the tensors that are alive, for every switch) and nearly so on a GPU, where
the kernels keep less; a compiled model keeps less still, and only running it tells how much.

Letters: T tokens of a row, n of all rows, C = d_model, H heads, D width of a head, M inside of the MLP, c bytes of a
number in the compute type.
"""

from dataclasses import dataclass, replace

from scratchlab.architecture import GPTSection, ModelSection, RNNSection
from scratchlab.model.attention import ENTRIES, QUERIES, SHORT, has_amx
from scratchlab.model.count import FULL_FINETUNING, GATES, trains_head
from scratchlab.model.loss import CHUNK_ENTRIES
from scratchlab.recipe import FinetuningSection

FLOAT = 4
STATISTICS = 8  # a mean and a deviation, or what stands for them
DROPPED = 2  # 16 random bits an entry; PyTorch's own masks have 8


@dataclass(frozen=True, slots=True)
class Shape:
    """What passes through the model at once, and how."""

    rows: int
    tokens: int
    """Of one row."""
    compute_bytes: int
    """Of a number in the compute type: 4, or 2 in bf16 and fp16."""
    on_cpu: bool = True

    @property
    def n(self) -> int:
        return self.rows * self.tokens


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that live from the forward to the backward pass, and what more either takes at its fullest moment."""

    layers: tuple[int, ...]
    around: int
    """Outside the layers: dropped embeddings, the last norm, what the head reads, its weights in the compute type."""
    logits: int
    """Log-probabilities; or, in chunks, the gradients that stand in for them."""
    logits_passing: int
    """More logits, while the loss and its gradient are computed."""
    layer_passing: int
    """What the backward pass of a layer takes, gradients of its inside above all."""

    @property
    def total(self) -> int:
        return sum(self.layers) + self.around + self.logits

    @property
    def peak(self) -> int:
        """At the loss, or just after it in the last layer: what is kept goes layer by layer from there on."""
        return sum(self.layers) + max(self.around + self.logits + self.logits_passing, self.layer_passing)


def recomputed(kept: Kept, stream: int) -> Kept:
    """The same where each layer keeps the `stream` that enters it, and is gone through again in the backward pass."""
    return replace(kept, layers=(stream,) * len(kept.layers), layer_passing=max(kept.layers) + kept.layer_passing)


def kept_bytes(
    model: ModelSection, vocab_size: int, shape: Shape, finetuning: FinetuningSection = FULL_FINETUNING
) -> Kept:
    """What training on `shape` keeps. Beside adapters no more than this: frozen layers need not keep what they read."""
    if isinstance(model, RNNSection):
        return _kept_by_rnn(model, vocab_size, shape)
    C, n = model.d_model, shape.n
    head = FLOAT if model.float32_head else shape.compute_bytes
    trained = trains_head(model, finetuning)
    logits, passing = _loss(n, C, model.head_rows(vocab_size), head, model.logit_cap is not None, trained)
    last = 0 if model.norm_position == "post" else _norm(model, shape)
    around = last + (DROPPED * n * C if model.dropped("embedding") else 0)
    if not _in_chunks(n, model.head_rows(vocab_size)):  # what the head reads, and its weights in the compute type
        around += head * n * C + _weights(model.head_rows(vocab_size) * C, head)
    if trained and finetuning.lora_rank is not None:  # the head's weights beside those of its adapter
        around += FLOAT * model.head_rows(vocab_size) * (C + finetuning.lora_rank)
    adapters = _adapters(model, finetuning, shape)
    layers = tuple(_layer(model, layer, shape) + adapters for layer in range(model.n_layer))
    return Kept(layers, around, logits, passing, _layer_passing(model, shape))


def scoring_bytes(model: ModelSection, vocab_size: int, shape: Shape) -> int:
    """What scoring `shape` takes at its fullest, of which nothing is kept: in a layer, or at the logits."""
    n, C, c = shape.n, model.d_model, shape.compute_bytes
    if isinstance(model, RNNSection):
        read = vocab_size * 3 if model.embedding == "one_hot" else C  # as integers first
        layer, vocab, width = n * FLOAT * (read + (2 + GATES[model.cell]) * C), vocab_size, C + 1
    else:
        inside = model.mlp_width * (2 if model.mlp in ("gelu", "gelu_tanh", "relu") else 3)
        squares = 3 * FLOAT * shape.tokens * model.n_head if model.attention == "explicit" else 0
        layer = n * (4 * FLOAT * C + max(c * inside, squares))  # the stream as it was and is, and its norm
        vocab, width = model.head_rows(vocab_size), C
    rows = min(n, max(1, CHUNK_ENTRIES // vocab))
    logits = 2 * FLOAT * rows * vocab + _weights(vocab * width, c)
    return max(layer, n * width * (FLOAT + (0 if c == FLOAT else c)) + logits)


def layer_bytes_per_sequence(model: ModelSection, compute_bytes: int, again: bool = False) -> int:
    """What each full sequence adds to what layers keep, on a CPU; if gone through `again`, one of them being whole."""
    shapes = [Shape(rows, model.context_length, compute_bytes) for rows in (1, 2)]
    one, two = (kept_bytes(model, 1, shape).layers for shape in shapes)
    added = [more - less for less, more in zip(one, two, strict=True)]
    return max(added) + len(added) * FLOAT * model.d_model * model.context_length if again else sum(added)


def _layer(m: GPTSection, layer: int, shape: Shape) -> int:
    mlp = _mlp(m, shape)
    return mlp if m.attention == "none" else mlp + _attention(m, layer, shape)


def _adapters(m: GPTSection, finetuning: FinetuningSection, shape: Shape) -> int:
    """Of the adapters of a layer: what lies between their two matrices, and of what they read what was not dropped."""
    rank, c, n = finetuning.lora_rank or 0, shape.compute_bytes, shape.n
    widths = {"qkv": m.d_model, "out": m.d_model, "up": m.d_model, "down": m.mlp_width}
    widths |= {"gate": m.d_model} if m.mlp == "swiglu" else {}
    read = [width for name, width in widths.items() if rank and name in finetuning.adapted_layers]
    between = rank * (len(read) + 2 * ("qkv" in finetuning.adapted_layers))
    return n * (c * between + ((c + DROPPED) * sum(read) if finetuning.lora_dropout else 0))


def _norm(m: GPTSection, shape: Shape) -> int:
    """Its input and its statistics; PyTorch's RMS norm for CPUs also what it has divided."""
    if m.norm == "none":
        return 0
    if m.norm == "rms":
        return shape.n * (FLOAT * m.d_model * (2 if shape.on_cpu else 1) + FLOAT)
    return shape.n * (FLOAT * m.d_model + STATISTICS)


def _inputs(m: GPTSection, readers: int, compute_bytes: int, shape: Shape) -> int:
    """What linear layers read: the norm's output, or a copy in the compute type for each of them."""
    return shape.n * m.d_model * (FLOAT if compute_bytes == FLOAT else compute_bytes * readers)


def _weights(entries: int, compute_bytes: int) -> int:
    """Weights in the compute type, where it is another than theirs."""
    return 0 if compute_bytes == FLOAT else compute_bytes * entries


def _attention(m: GPTSection, layer: int, shape: Shape) -> int:
    c = FLOAT if m.float32_attention else shape.compute_bytes
    C, D = m.d_model, m.head_width
    made = (m.n_head + 2 * m.n_kv) * D
    kept = _norm(m, shape) + _inputs(m, 1, c, shape) + _weights(made * C + C * C, c) + _heads(m, layer, c, shape)
    if m.qk_norm:  # an RMS norm a head: what it read, in float32, what it has divided, and a number
        read = 0 if c == FLOAT else FLOAT
        kept += shape.n * (m.n_head + m.n_kv) * (D * (read + FLOAT) + FLOAT)
    if m.positions == "rotary" and c != FLOAT:  # cosines and sines in the compute type, for queries and for keys
        kept += 2 * 2 * c * shape.tokens * (D // 2)
    return kept + (DROPPED * shape.n * C if m.dropped("residual") else 0)


def _heads(m: GPTSection, layer: int, c: int, shape: Shape) -> int:
    """Queries, keys and values as the kernel reads them, what it keeps of its own, and what the projection reads."""
    window, T = m.window_of(layer), shape.tokens
    masked, dropped = (window is not None and window < T) or m.document_mask, m.dropped("attention") > 0
    if m.attention == "explicit":
        return _explicit(m, c, shape)
    if dropped and (masked or m.attention == "torch"):
        return _unfused(m, c, shape)
    if dropped and shape.on_cpu:
        return 5 * c * shape.n * m.d_model + _dropped_bits(shape, m.n_head)  # what went in, what came out, and scaled
    if shape.on_cpu and c != FLOAT and m.attention != "torch" and not masked:
        if T * m.head_width < SHORT:  # read in float32, and so is what comes out
            return shape.n * (4 * FLOAT * m.d_model + FLOAT * m.n_head + c * m.d_model)
        if not has_amx():  # in blocks of our own
            return 5 * c * shape.n * m.d_model
    return _fused(m, c, shape) + (c * _mask(m, shape) if masked else 0)


def _fused(m: GPTSection, c: int, shape: Shape) -> int:
    """What the kernel reads and gives, and a number a query."""
    C, D = m.d_model, m.head_width
    turned = m.positions == "rotary" or m.qk_norm
    read = made = (m.n_head + 2 * m.n_kv) * D  # in one piece, of which queries, keys and values are views
    if turned:  # queries and keys anew; the values keep all that was made
        read += (m.n_head + m.n_kv) * D
    if m.n_kv < m.n_head:  # keys and values repeated; the queries are turned, or keep all that was made
        read = 2 * C + (C if turned else made)
    given = 2 * C if turned else C  # it lies head by head then, and the projection reads it token by token
    return shape.n * (c * (read + given) + FLOAT * m.n_head)


def _explicit(m: GPTSection, c: int, shape: Shape) -> int:
    """What goes in and comes out, the weights, with their copy in the compute type, and the mask."""
    weight = FLOAT + (0 if c == FLOAT else c)
    if m.dropped("attention"):  # random bits, and the weights that are left
        weight += DROPPED + (FLOAT if c == FLOAT else 0)
    return shape.n * (4 * c * m.d_model + weight * shape.tokens * m.n_head) + _mask(m, shape)


def _unfused(m: GPTSection, c: int, shape: Shape) -> int:
    """PyTorch's kernel for what its fused one cannot do, in float32: softmax, what is dropped, what is left."""
    squares = 3 * shape.tokens * m.n_head
    return FLOAT * (shape.n * (4 * m.d_model + squares) + _mask(m, shape)) + c * shape.n * m.d_model


def _mask(m: GPTSection, shape: Shape) -> int:
    """Entries of a mask: one for all rows, or one for each where documents differ."""
    return (shape.rows if m.document_mask else 1) * shape.tokens**2


def _dropped_bits(shape: Shape, n_head: int) -> int:
    """Random bits of the half of the square that is computed, a block of queries at a time."""
    T = shape.tokens
    square = sum((min(start + QUERIES, T) - start) * min(start + QUERIES, T) for start in range(0, T, QUERIES))
    return shape.rows * n_head * square * DROPPED


def _mlp(m: GPTSection, shape: Shape) -> int:
    c = FLOAT if m.float32_mlp else shape.compute_bytes
    C, M, gated = m.d_model, m.mlp_width, m.mlp == "swiglu"
    inside = {"relu": 1, "swiglu": 4, "gelu_tanh": 3 if c == FLOAT and shape.on_cpu else 2}.get(m.mlp, 2)
    read = _norm(m, shape) + _inputs(m, 1 + gated, c, shape) + _weights((2 + gated) * C * M, c)
    return read + shape.n * inside * M * c + (DROPPED * shape.n * C if m.dropped("mlp") else 0)


def _in_chunks(n: int, vocab: int) -> bool:
    return n * vocab > CHUNK_ENTRIES


def _loss(n: int, width: int, vocab: int, head_bytes: int, capped: bool, trained: bool = True) -> tuple[int, int]:
    """Bytes that the loss keeps, and those that pass while it and its gradient are computed."""
    if not _in_chunks(n, vocab):  # log-probabilities, their gradient, and the gradient of the logits
        square = FLOAT * n * vocab
        return square * (1 + capped), 2 * square
    rows = max(1, CHUNK_ENTRIES // vocab)
    weights, hidden, chunk = vocab * width, n * width, FLOAT * rows * vocab
    cast = 0 if head_bytes == FLOAT else 1
    # A chunk's logits, their log-softmax, and the gradient of the chunk before, which is let go of last; or that
    # gradient, also in the compute type, and its product with the hidden states. All beside what the head reads, and
    # its weights in the compute type.
    beside = head_bytes * (hidden + cast * weights)
    forward = beside + max(3 * chunk, chunk + cast * chunk // 2 + head_bytes * weights)
    return head_bytes * hidden + FLOAT * weights * trained, forward


def _layer_passing(m: GPTSection, shape: Shape) -> int:
    """Gradients inside the MLP, or, when it is done and gone, those inside attention."""
    n, C, c = shape.n, m.d_model, FLOAT if m.float32_mlp else shape.compute_bytes
    stream = FLOAT * n * C
    in_mlp = stream + n * c * m.mlp_width * {"relu": 2, "swiglu": 2, "relu2": 3}.get(m.mlp, 1)
    unfused = m.attention == "explicit" or (m.dropped("attention") and m.attention == "torch")
    squares = 2 * FLOAT * n * shape.tokens * m.n_head if unfused else _blocks(m, shape)
    return max(in_mlp, (6 if m.norm == "rms" else 3) * stream + squares - _mlp(m, shape))


def _blocks(m: GPTSection, shape: Shape) -> int:
    """Of the heads and queries that our own kernel does at once: scores and weights, beside the weights of those before
    and their gradients, which are let go of last."""
    c, T = shape.compute_bytes, shape.tokens
    own = shape.on_cpu and c != FLOAT and m.attention == "fused" and not m.float32_attention and not has_amx()
    if not own or m.dropped("attention") or T * m.head_width < SHORT:
        return 0
    return 4 * c * min(ENTRIES, shape.rows * m.n_head * max(QUERIES, T // 8) * T)


def _kept_by_rnn(m: RNNSection, vocab_size: int, shape: Shape) -> Kept:
    C, n = m.d_model, shape.n
    logits, passing = _loss(n, C + 1, vocab_size, FLOAT, False)
    width = vocab_size if m.embedding == "one_hot" else C
    layers = tuple(n * FLOAT * _cell_numbers(m, width if layer == 0 else C) for layer in range(m.n_layer))
    onednn = m.cell == "lstm" and m.kernel == "fused"  # it copies what it reads, and drops with a mask and a copy
    masks = (FLOAT * (1 + onednn) * (m.n_layer - 1) + DROPPED) * C if m.dropout else 0
    around = n * (FLOAT * (C + 1) + masks + (FLOAT * width if onednn else 0))
    return Kept(layers, around, logits, passing, 2 * n * FLOAT * GATES[m.cell] * C)


def _cell_numbers(m: RNNSection, width: int) -> int:
    """Numbers a token that a layer keeps with its input: counted of torch.nn's kernels and of the page's own."""
    C = m.d_model
    if m.kernel == "explicit":
        return width + {"elman": 1, "gru": 8, "lstm": 7}[m.cell] * C
    if m.cell == "lstm":  # oneDNN's workspace, whose rows are as wide as the wider of input and state
        return 11 * C + 6 * max(width, C)
    return width + {"elman": 1, "gru": 7}[m.cell] * C
