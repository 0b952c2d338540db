"""A run folder without a training: fresh or lively weights, a tokenizer, and a chat template if it shall answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.model.build import Model, build_model
from scratchlab.recipe import recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.checkpoint import write_tensors


def lively_model(tokenizer: Tokenizer, **model: Any) -> Model:
    """A model that does not repeat itself, in float32."""
    recipe = recipe_from({"corpus": "", "model": _with_defaults(model), "training": {"steps": 0}}, where="tiny")
    made = build_model(recipe.model, tokenizer.vocab_size, 1, end_of_text=tokenizer.end_of_text).eval()
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            if parameter.dim() == 2:
                spread = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(300 + number))
                parameter.copy_(spread * parameter.shape[1] ** -0.5 * 1.5)
    return made


def make_run(
    path: Path,
    tokenizer: Tokenizer,
    template: str | None = None,
    change: Callable[[Model], None] = lambda model: None,
    **model: Any,
) -> RunFolder:
    """The lively model as a run of no steps, after a change to its weights."""
    tables = {"corpus": "", "model": _with_defaults(model), "training": {"steps": 0, "precision": "float32"}}
    recipe = recipe_from(tables, where="tiny")
    settled = {"execution.device": "cpu", "execution.compile": False, "execution.micro_batch_size": 1}
    manifest = {
        "fingerprint": "none",
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.end_of_text,
    }
    made = lively_model(tokenizer, **model)
    change(made)
    begin = (lambda file: write_tensors({name: x.detach() for name, x in made.named_parameters()}, file)), {}
    resolved = recipe.replaced(settled | {"execution.threads": 1})
    folder = RunFolder.create(path, recipe, resolved, manifest, tokenizer.to_json(), begin)
    if template is not None:
        folder.chat_template_path.write_text(template, encoding="utf-8")
    return folder


def _with_defaults(model: dict[str, Any]) -> dict[str, Any]:
    heads = {} if "architecture" in model else {"n_head": 2}
    return {"n_layer": 2, "d_model": 32, "context_length": 64, **heads, **model}
