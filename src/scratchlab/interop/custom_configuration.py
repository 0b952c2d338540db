"""What transformers wants of a GPT's configuration. An export carries it along: see `custom.py`."""

from typing import Any

from transformers import PretrainedConfig

from scratchlab.architecture import GPTSection


class ScratchlabConfig(PretrainedConfig):
    """`scratchlab` has the fields of the model that differ from their defaults, as a recipe's `[model]` has them."""

    model_type = "scratchlab"

    def __init__(
        self,
        scratchlab: dict[str, Any] | None = None,
        vocab_size: int = 256,
        end_of_text: int | None = None,
        **others: Any,
    ) -> None:
        """`end_of_text` is the token at which documents part, for `document_mask`."""
        self.scratchlab, self.vocab_size, self.end_of_text = dict(scratchlab or {}), vocab_size, end_of_text
        section = self.section
        others |= {
            "hidden_size": section.d_model,
            "num_hidden_layers": section.n_layer,
            "num_attention_heads": section.n_head,
            "max_position_embeddings": section.context_length,
            "tie_word_embeddings": False,  # a tied head has no matrix of its own that would have to be tied
        }
        super().__init__(**others)

    @property
    def section(self) -> GPTSection:
        fields = dict(self.scratchlab)
        if fields.get("attention") == "torch":  # the same numbers, and linear layers that can be wrapped
            fields["attention"] = "fused"
        return GPTSection(**fields)
