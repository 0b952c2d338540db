"""Parameters and FLOPs by formula. Tests hold each formula equal to the built model, for every switch."""

from collections.abc import Iterator

from scratchlab.architecture import GPTSection, ModelSection, RNNSection
from scratchlab.recipe import FinetuningSection

GATES = {"elman": 1, "gru": 3, "lstm": 4}
FULL_FINETUNING = FinetuningSection()  # and all training from scratch: no adapters


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
    head = model.head_rows(vocab_size) * d * (model.labels is not None or not model.tie_weights)
    return embeddings + model.n_layer * block + norm * (model.norm_position == "pre") + head


def adapted_matrices(
    model: ModelSection, vocab_size: int, finetuning: FinetuningSection
) -> Iterator[tuple[int, int, int]]:
    """Inputs and outputs of the matrices that have an adapter (`model/lora.py`), and how many such there are."""
    if finetuning.lora_rank is None or isinstance(model, RNNSection):
        return
    d, inner, named = model.d_model, model.mlp_width, finetuning.adapted_layers
    if "qkv" in named and model.attention != "none":
        yield d, model.n_head * model.head_width, model.n_layer
        yield d, model.n_kv * model.head_width, model.n_layer * (1 if finetuning.lora_layers == "query_value" else 2)
    if "out" in named and model.attention != "none":
        yield d, d, model.n_layer
    if "up" in named:
        yield d, inner, model.n_layer * (2 if model.mlp == "swiglu" else 1)
        yield inner, d, model.n_layer
    if "head" in named and trains_head(model, finetuning):
        yield d, model.head_rows(vocab_size), 1


def trains_head(model: ModelSection, finetuning: FinetuningSection) -> bool:
    """Whether there is a gradient of the head: of its own weights, or of an adapter beside them."""
    if finetuning.lora_rank is None or isinstance(model, RNNSection) or model.labels is not None:
        return True
    return "head" in finetuning.adapted_layers and not model.tie_weights


def adapter_count(model: ModelSection, vocab_size: int, finetuning: FinetuningSection) -> int:
    """Numbers in the adapters; 0 where there are none."""
    rank = finetuning.lora_rank or 0
    return sum(rank * (n_in + n_out) * n for n_in, n_out, n in adapted_matrices(model, vocab_size, finetuning))


def trained_count(model: ModelSection, vocab_size: int, finetuning: FinetuningSection) -> int:
    """How many numbers a run trains: those of its adapters, and of a head of labels that has none; or all weights."""
    if finetuning.lora_rank is None or isinstance(model, RNNSection):
        return parameter_count(model, vocab_size)
    head = model.d_model * (model.labels or 0) * ("head" not in finetuning.adapted_layers)
    return adapter_count(model, vocab_size, finetuning) + head


def forward_flops_per_token(model: ModelSection, vocab_size: int) -> int:
    """FLOPs of one token's forward pass at full context.

    A product of (m, k) and (k, n) counts 2mnk; attention at its full square, though the causal half is never used (a
    window at its width); embeddings (and one-hot inputs), norms, activations and the softmax count nothing; the
    vocabulary at its true size. A head of labels counts at every token, for so it is computed.
    """
    if isinstance(model, RNNSection):
        products = 2 * model.n_layer - (model.embedding == "one_hot")
        return 2 * GATES[model.cell] * products * model.d_model**2 + 2 * (model.d_model + 1) * vocab_size
    seen = sum(model.window_of(layer) or model.context_length for layer in range(model.n_layer))
    attention = 2 * 2 * seen * model.d_model * (model.attention != "none")
    return _matrix_flops(model) + attention + 2 * model.d_model * (model.labels or vocab_size)


def _matrix_flops(model: GPTSection) -> int:
    """Of the products with weights, but for the head's."""
    d, h = model.d_model, model.mlp_width
    mlp = 2 * (3 if model.mlp == "swiglu" else 2) * d * h
    projections = 2 * d * ((model.n_head + 2 * model.n_kv) * model.head_width + d)
    return model.n_layer * (mlp + projections * (model.attention != "none"))


def training_flops_per_token(
    model: ModelSection, vocab_size: int, finetuning: FinetuningSection = FULL_FINETUNING
) -> int:
    """Forward plus backward, which is counted as twice the forward; recomputation is not counted.

    Beside adapters a frozen matrix has no gradient of its own, only its input does: its backward counts once the
    forward (in the first layer too, where nothing asks for it). Adapters count like all that is trained, and so does a
    head with one, whose gradient comes out with the adapter's.
    """
    whole = 3 * forward_flops_per_token(model, vocab_size)
    if finetuning.lora_rank is None or isinstance(model, RNNSection):
        return whole
    head = 0 if trains_head(model, finetuning) else 2 * model.d_model * vocab_size
    unpadded = model.model_copy(update={"vocab_multiple": 1})
    return whole - _matrix_flops(model) - head + 3 * 2 * adapter_count(unpadded, vocab_size, finetuning)
