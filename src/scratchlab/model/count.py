"""Parameters, FLOPs and bytes by formula. Tests hold each formula equal to the built model, for every switch."""

from scratchlab.recipe import ModelSection, RNNSection

GATES = {"elman": 1, "gru": 3, "lstm": 4}


def parameter_count(model: ModelSection, vocab_size: int) -> int:
    """All weights; a tied head is counted once, a padded vocabulary with its padding."""
    if isinstance(model, RNNSection):
        d, learned = model.d_model, model.embedding == "learned"
        inputs = (d if learned else vocab_size) + (model.n_layer - 1) * d
        cells = GATES[model.cell] * d * (inputs + model.n_layer * (d + 2))
        return cells + vocab_size * (d + 1) + vocab_size * d * learned
    d, h = model.d_model, model.mlp_width
    norm = {"layer": d + d * model.has_bias("norm"), "rms": d, "none": 0}[model.norm]
    qkv = (model.n_head + 2 * model.n_kv) * model.head_width
    attention = (d + model.has_bias("qkv")) * qkv + (d + model.has_bias("output")) * d
    attention += 2 * model.head_width * model.qk_norm + norm
    mlp = (2 if model.mlp == "swiglu" else 1) * (d + model.has_bias("mlp")) * h + (h + model.has_bias("mlp")) * d + norm
    block = mlp + attention * (model.attention != "none")
    embeddings = model.padded(vocab_size) * d + model.context_length * d * (model.positions == "learned")
    head = model.padded(vocab_size) * d * (not model.tie_weights)
    return embeddings + model.n_layer * block + norm * (model.norm_position == "pre") + head


def forward_flops_per_token(model: ModelSection, vocab_size: int) -> int:
    """FLOPs of one token's forward pass at full context.

    A product of (m, k) and (k, n) counts 2mnk; attention at its full square, though the causal half is never used (a
    window at its width); embeddings (and one-hot inputs), norms, activations and the softmax count nothing; the
    vocabulary at its true size.
    """
    if isinstance(model, RNNSection):
        products = 2 * model.n_layer - (model.embedding == "one_hot")
        return 2 * GATES[model.cell] * products * model.d_model**2 + 2 * (model.d_model + 1) * vocab_size
    d, h = model.d_model, model.mlp_width
    mlp = 2 * (3 if model.mlp == "swiglu" else 2) * d * h
    projections = 2 * d * ((model.n_head + 2 * model.n_kv) * model.head_width + d)
    seen = sum(model.window_of(layer) or model.context_length for layer in range(model.n_layer))
    attention = (model.n_layer * projections + 2 * 2 * seen * d) * (model.attention != "none")
    return model.n_layer * mlp + attention + 2 * d * vocab_size


def training_flops_per_token(model: ModelSection, vocab_size: int) -> int:
    """Forward plus backward, which is counted as twice the forward; recomputation is not counted."""
    return 3 * forward_flops_per_token(model, vocab_size)


def activation_bytes_per_sequence(model: ModelSection, recomputed: bool = False) -> int:
    """Bytes kept for the backward pass of one full sequence in float32, without the logits.

    Per layer and token, in numbers of width d: the stream and its norm before each branch (4), q, k and v (3), the
    heads' output (1), the MLP's inside before, in and after its activation (3, or 5 with a gate, times its ratio), and
    three squares of attention weights where no fused kernel does without them. Of a recurrent network, per layer and
    token: the gates twice, the state, and what goes on to the next layer. Where blocks are `recomputed`, the stream
    into each is kept, and all of one.
    """
    if isinstance(model, RNNSection):
        return 4 * (2 * GATES[model.cell] + 3) * model.d_model * model.n_layer * model.context_length
    inside = (5 if model.mlp == "swiglu" else 3) * model.mlp_width
    masked = model.window is not None or model.document_mask
    kept = model.attention == "explicit" or (model.dropped("attention") and (masked or model.attention == "torch"))
    squares = 3 * model.n_head * model.context_length if kept else 0
    block = 8 * model.d_model + inside + squares
    numbers = block + model.n_layer * model.d_model if recomputed else model.n_layer * block
    return 4 * numbers * model.context_length
