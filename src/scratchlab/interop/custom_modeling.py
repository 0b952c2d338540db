"""What transformers wants of a GPT: its classes around the model page. An export carries it along: see `custom.py`.

`generate`, `pipeline` and `Trainer` come from transformers. The page's cache is one of transformers' here, so that
every way of generating that it has can be had; padding may be on either side.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from scratchlab.interop.custom_configuration import ScratchlabConfig
from scratchlab.model.attention import rotation
from scratchlab.model.gpt import GPT, View, check_places, remembered
from scratchlab.model.layers import Cache, Linear
from scratchlab.model.loss import Readout

# What transformers calls the cache in what a model gives: its name was another before release 5.24.
FIELDS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
CACHE_NAME = "cache" if "cache" in FIELDS else "past_key_values"


class CacheOfTransformers:
    """What the page asks of a cache, done by one of transformers'."""

    def __init__(self, past: Any) -> None:
        self.past = past

    def append(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor, places_BT: Tensor) -> tuple[Tensor, Tensor]:
        return self.past.update(k_BHTD, v_BHTD, layer)


def visible_with_padding(real_BL: Tensor, n_new: int, window: int | None, documents_BL: Tensor | None) -> Tensor:
    """(B, 1, T, L), true where one of the last T columns may look: not ahead nor at padding, in its window, in its
    document. Padding looks at itself, for a softmax over nothing is not a number."""
    columns_L, places_BL = torch.arange(real_BL.shape[1], device=real_BL.device), real_BL.cumsum(1)
    rows_T1 = columns_L[-n_new:, None]
    visible_BTL = (columns_L <= rows_T1) & real_BL[:, None]
    if window is not None:
        visible_BTL = visible_BTL & (places_BL[:, None] > places_BL[:, -n_new:, None] - window)
    if documents_BL is not None:
        visible_BTL = visible_BTL & (documents_BL[:, None] == documents_BL[:, -n_new:, None])
    return (visible_BTL | (columns_L == rows_T1))[:, None]


class ScratchlabPreTrainedModel(PreTrainedModel):
    """What both models have in common."""

    config_class = ScratchlabConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012  as transformers has it
    _keep_in_fp32_modules_strict = ["gpt"]  # noqa: RUF012  the page keeps its weights in float32 and casts them itself
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # it is the page's own kernel, unless its configuration names another

    @property
    def page(self) -> GPT:
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Embedding:
        return self.page.token_embedding

    def set_input_embeddings(self, value: Any) -> None:
        page = self.page
        page.token_embedding, page.vocab_size = value, value.num_embeddings
        page.readout = Readout(value.num_embeddings, page.config.logit_cap)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.page.head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """A head of transformers' making, where the vocabulary was resized, becomes one of the page's."""
        page = self.page
        if page.head is None:
            raise ValueError("The head of this model is its embedding (tie_weights): set that instead.")
        if not isinstance(new_embeddings, Linear):
            head = Linear(page.config.d_model, len(new_embeddings.weight), False, page.head_dtype)
            head.weight = new_embeddings.weight
            new_embeddings = head
        page.head = new_embeddings

    def refuse(self, input_ids: Tensor | None, asked: Mapping[str, Any]) -> Tensor:
        """The tokens. ValueError names what cannot be given or had: the page tells nothing of its inside."""
        inner = ("output_hidden_states", "output_attentions")
        wanted = {name: asked.get(name, getattr(self.config, name, None)) for name in (*inner, "inputs_embeds")}
        named = [name for name, value in wanted.items() if value is not None and value is not False]
        if asked.get("return_dict") is False:
            named.append("return_dict=False")
        if input_ids is None or named:
            raise ValueError(
                f"{type(self).__name__} takes input_ids, and gives one object with what its last layer makes of them: "
                f"it knows no {', '.join(named) or 'call without them'}."
            )
        return input_ids


class ScratchlabModel(ScratchlabPreTrainedModel):
    """The model up to its head."""

    def __init__(self, config: ScratchlabConfig) -> None:
        super().__init__(config)
        self.gpt = GPT(config.section, config.vocab_size, torch.get_default_dtype(), config.end_of_text)
        self.gradient_checkpointing = False  # transformers sets it, with the function that does it
        self.post_init()

    @property
    def page(self) -> GPT:
        return self.gpt

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        cache: Any = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """`attention_mask` is 1 for text and 0 for padding, of what is cached too. Without a cache, text is parted into
        documents where the model was trained so; with one it is a single document."""
        input_ids = self.refuse(input_ids, others)
        past = past_key_values if cache is None else cache
        again = self.gradient_checkpointing and self.training and past is None
        self.gpt.through = self._gradient_checkpointing_func if again else remembered
        if past is None and use_cache and not again:  # what is computed twice would be cached twice
            past = DynamicCache()
        (B, T), before = input_ids.shape, 0 if past is None else past.get_seq_length()
        real_BL = input_ids.new_ones(B, before + T) if attention_mask is None else attention_mask
        if real_BL.dim() != 2:
            raise ValueError(
                f"attention_mask should be (rows, tokens), not {tuple(real_BL.shape)}: such a mask comes with a static "
                "cache (cache_implementation), which this model does not know. Leave that out."
            )
        real_BL = real_BL.bool()
        positions_BT = (real_BL.cumsum(1) - 1).clamp(min=0)[:, -T:] if position_ids is None else position_ids
        view = self._view(input_ids, real_BL, positions_BT, past)
        check_places(int(positions_BT.max()) + 1, self.gpt.config.context_length)
        hidden_BTC = self.gpt.stream(input_ids, positions_BT, view)
        return BaseModelOutputWithPast(last_hidden_state=hidden_BTC, **{CACHE_NAME: past})  # pyright: ignore

    def _view(self, input_ids: Tensor, real_BL: Tensor, positions_BT: Tensor, past: Any) -> View:
        page, T, n_places = self.gpt, input_ids.shape[1], real_BL.shape[1]
        documents_BL = None
        if page.end_of_text is not None and past is None:
            documents_BL = (input_ids == page.end_of_text).cumsum(1)
        causal = documents_BL is None and T in (1, n_places) and bool(real_BL.all())
        visible = {
            window: None
            if causal and (window is None or window >= n_places)
            else visible_with_padding(real_BL, T, window, documents_BL)
            for window in page.windows
        }
        turns = rotation(positions_BT, page.config.head_width) if page.config.positions == "rotary" else None
        cache = None if past is None else cast(Cache, CacheOfTransformers(past))
        return View(cache, turns, visible, positions_BT)


class ScratchlabForCausalLM(ScratchlabPreTrainedModel, GenerationMixin):
    """The model with its head: it predicts the next token."""

    def __init__(self, config: ScratchlabConfig) -> None:
        super().__init__(config)
        self.model = ScratchlabModel(config)
        self.post_init()

    @property
    def page(self) -> GPT:
        return self.model.gpt

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Any = None,
        cache: Any = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """`labels` are the tokens themselves, -100 where none is to be learned; the loss is the mean of the others."""
        input_ids = self.refuse(input_ids, others)
        past = past_key_values if cache is None else cache
        out = self.model(input_ids, attention_mask, position_ids, past, use_cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.page.logits(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            total = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            of: Any = self.loss_function
            loss = of(logits=logits_BTV, labels=labels, vocab_size=self.page.vocab_size, **total)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV, **{CACHE_NAME: getattr(out, CACHE_NAME)})

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers does it, and by the names that it looks for; but where text was parted into documents, what
        one goes on from is itself alone."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # pyright: ignore
        if self.page.end_of_text is not None:
            ends_BL = (input_ids == self.page.end_of_text).long()
            last_BL = ends_BL.flip(1).cumsum(1).flip(1) == ends_BL  # no end comes later
            real_BL = inputs.get("attention_mask")
            inputs["attention_mask"] = last_BL.long() if real_BL is None else last_BL * real_BL
            inputs["position_ids"] = None
        return inputs
