"""The model of a recipe, whichever page it is on."""

import torch

from scratchlab.architecture import GPTSection, ModelSection
from scratchlab.model.gpt import GPT
from scratchlab.model.initialize import initialize
from scratchlab.model.rnn import RNN

Model = GPT | RNN
"""What both pages have, and all that the rest of the house knows of them: `hidden`, `logits`, `forward`, `new_state`;
`head_weight`, `head_dtype` and `readout`, which the loss works with; `most_tokens`, `end_of_text`, `initial_table`.
"""


def empty_model(
    config: ModelSection,
    vocab_size: int,
    compute_dtype: torch.dtype = torch.float32,
    end_of_text: int | None = None,
    activation_checkpointing: bool = False,
) -> Model:
    """The model without values, on the meta device."""
    with torch.device("meta"):
        if isinstance(config, GPTSection):
            return GPT(config, vocab_size, compute_dtype, end_of_text, activation_checkpointing)
        return RNN(config, vocab_size, compute_dtype)


def build_model(
    config: ModelSection,
    vocab_size: int,
    seed: int,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    end_of_text: int | None = None,
    activation_checkpointing: bool = False,
) -> Model:
    """The model with the initial values that `config.initialization` and `seed` give, on `device`."""
    model = empty_model(config, vocab_size, compute_dtype, end_of_text, activation_checkpointing)
    initialize(model, model.initial_table(), seed, device)
    return model
