"""Parameters, FLOPs and bytes by formula. Tests hold each formula equal to the built model."""

from scratchlab.recipe import GPTSection


def parameter_count(model: GPTSection, vocab_size: int) -> int:
    """All weights; a tied head is counted once."""
    d = model.d_model
    attention = 3 * d * d + 3 * d * model.qkv_bias + d * d + d
    mlp = 4 * d * d + 4 * d + 4 * d * d + d
    norms = 2 * d + 2 * d
    embeddings = vocab_size * d + model.context_length * d
    head = 0 if model.tie_weights else vocab_size * d
    return embeddings + model.n_layer * (attention + mlp + norms) + 2 * d + head


def forward_flops_per_token(model: GPTSection, vocab_size: int) -> int:
    """FLOPs of one token's forward pass at full context.

    A product of (m, k) and (k, n) counts 2mnk; attention at its full square, though the causal half is never used;
    embeddings, norms, activations and the softmax count nothing; the vocabulary at its true size.
    """
    d = model.d_model
    projections = 2 * (3 * d * d + d * d + 4 * d * d + 4 * d * d)
    attention = 2 * (2 * model.context_length * d)
    return model.n_layer * (projections + attention) + 2 * d * vocab_size


def training_flops_per_token(model: GPTSection, vocab_size: int) -> int:
    """Forward plus backward, which is counted as twice the forward; recomputation is not counted."""
    return 3 * forward_flops_per_token(model, vocab_size)


def activation_bytes_per_sequence(model: GPTSection) -> int:
    """Bytes kept for the backward pass of one full sequence in float32, without the logits.

    Per layer and token, in numbers of width d: the stream and its norm before each branch (4), q, k and v (3), the
    heads' output (1), and the MLP's inside before, in and after its activation (12).
    """
    return 4 * 20 * model.d_model * model.n_layer * model.context_length
