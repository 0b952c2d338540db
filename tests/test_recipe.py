"""The recipe: what it accepts, how it refuses, and what its fingerprint holds still."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scratchlab.architecture import GPTSection
from scratchlab.errors import RecipeError
from scratchlab.model.build import empty_model
from scratchlab.model.count import parameter_count
from scratchlab.problems import field_names
from scratchlab.recipe import Recipe, differences, fingerprint, recipe_from
from scratchlab.recipe_files import load_recipe, parse_override
from tiny import modest, tiny_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))
CORPUS = "c" * 64

# A value for every field that is neither its default nor what tiny_recipe() has.
OTHER: dict[str, Any] = {
    "corpus": "corpora/another",
    "model.architecture": None,  # one kind so far
    "model.n_layer": 3,
    "model.n_kv_head": 1,
    "model.norm": "rms",
    "model.norm_position": "post",
    "model.positions": "rotary",
    "model.attention": "explicit",
    "model.qk_norm": True,
    "model.window": 3,
    "model.window_layers": None,  # needs a window
    "model.document_mask": True,
    "model.mlp": "gelu",
    "model.mlp_ratio": 2.0,
    "model.residual": False,
    "model.bias": False,
    "model.output_bias": False,
    "model.mlp_bias": False,
    "model.norm_bias": False,
    "model.dropout_embedding": 0.1,
    "model.dropout_attention": 0.1,
    "model.dropout_residual": 0.1,
    "model.dropout_mlp": 0.1,
    "model.cell": None,  # of another architecture
    "model.embedding": None,
    "model.kernel": None,
    "model.logit_cap": 30.0,
    "model.vocab_multiple": 64,
    "model.initialization": "book",
    "model.float32_attention": True,
    "model.float32_mlp": True,
    "model.float32_head": True,
    "model.n_head": 4,
    "model.d_model": 16,
    "model.context_length": 7,
    "model.dropout": 0.1,
    "model.qkv_bias": False,
    "model.tie_weights": False,
    "model.labels": 3,
    "training.steps": 9,
    "training.tokens": 999,
    "training.tokens_per_parameter": 3.0,
    "training.epochs": 1.5,
    "training.global_batch_size": 5,
    "training.learning_rate": 0.02,
    "training.schedule": "linear",
    "training.order": "streams",
    "training.optimizer": None,  # RMSprop has no weight decay
    "training.epoch_decay": 0.9,
    "training.decay_after_epochs": 3,
    "training.epoch_steps": 7,
    "training.clip_value": 5.0,
    "training.warmup_steps": 1,
    "training.final_learning_rate": 0.0,
    "training.decay_share": 0.3,
    "training.weight_decay": 0.0,
    "training.beta1": 0.8,
    "training.beta2": 0.99,
    "training.eps": 1e-7,
    "training.clip_norm": 0.0,
    "training.precision": "bf16",
    "training.patience": 2,
    "training.checkpoint_every": 3,
    "evaluation.corpus": "corpora/fixed",
    "evaluation.every": 3,
    "evaluation.max_tokens": 50,
    "evaluation.sample_tokens": 0,
    "evaluation.suites": "hellaswag:200",
    "evaluation.suites_every": 7,
    "evaluation.suites_data": "evals",
    "evaluation.truncate": True,
    "evaluation.answers": 4,
    "evaluation.snapshots": 2,
    "start.weights": "runs/earlier",
    "start.at": None,  # these need start.weights
    "start.optimizer": None,
    "start.schedule": None,
    "start.data": None,
    "start.steps_before": None,
    "start.sequences_before": None,
    "seeds.init": 2,
    "seeds.data": 2,
    "seeds.noise": 2,
    "finetuning.learn_from": "all",
    "finetuning.lora_rank": 4,
    "finetuning.lora_alpha": None,  # these need finetuning.lora_rank
    "finetuning.lora_dropout": None,
    "finetuning.lora_layers": None,
    "finetuning.beta": 0.2,
    "execution.backend": None,  # one kind so far
    "execution.device": "cuda:1",
    "execution.compile": True,
    "execution.micro_batch_size": 2,
    "execution.threads": 3,
    "execution.deterministic": True,
    "execution.processes": 2,
    "execution.shard": False,
    "execution.activation_checkpointing": True,
    "execution.optimizer_offload": True,
}
CADENCES = {
    "training.checkpoint_every",
    *(
        f"evaluation.{name}"
        for name in (
            "every",
            "sample_tokens",
            "snapshots",
            "suites",
            "suites_every",
            "suites_data",
            "truncate",
            "answers",
        )
    ),
}
NEUTRAL = {"corpus", *CADENCES}
SETTLED_FIELDS = [name for name, value in OTHER.items() if value is not None]


def minimal(**sections: Any) -> dict[str, Any]:
    return {"corpus": "c", "training": {"steps": 10}} | sections


def complaint(tables: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe_from(tables, where="r.toml")
    return str(caught.value)


def print_of(recipe: Recipe) -> str:
    return fingerprint(recipe, CORPUS, "e" * 64)


# What it accepts.


def test_the_default_is_gpt2_small() -> None:
    model = recipe_from(minimal(), "r").model
    assert (model.n_layer, model.n_head, model.d_model, model.context_length) == (12, 12, 768, 1024)
    assert parameter_count(model, 50257) == 124_439_808


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_validate_build_and_survive_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    model = empty_model(recipe.model, vocab_size=4096, end_of_text=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(recipe.model, 4096)
    assert path.read_text(encoding="utf-8").startswith("#"), "opens with what it is for"
    assert "corpora/" in recipe.corpus


# Parameters that others report, at GPT-2's vocabulary.
SIZES = {
    "gpt2-small": (50257, 124_439_808),
    "gpt2-medium": (50257, 354_823_168),
    "gpt2-large": (50257, 774_030_080),
    "gpt2-xl": (50257, 1_557_611_200),
    "book-163m": (50257, 163_009_536),
}


@pytest.mark.parametrize("name", SIZES)
def test_presets_have_the_size_that_they_are_known_for(name: str) -> None:
    vocab_size, parameters = SIZES[name]
    (path,) = (path for path in RECIPES if path.stem == name)
    assert parameter_count(load_recipe(path).model, vocab_size) == parameters


@pytest.mark.parametrize(("name", "millions"), [("small", 125), ("medium", 350), ("large", 760), ("xl", 1300)])
def test_gpt3s_table(name: str, millions: int) -> None:
    (path,) = (path for path in RECIPES if path.stem == f"gpt3-{name}")
    recipe = load_recipe(path)
    assert parameter_count(recipe.model, 50257) / 1e6 == pytest.approx(millions, rel=0.025)
    assert isinstance(recipe.model, GPTSection)
    assert [recipe.model.window_of(layer) for layer in range(4)] == [None, 256, None, 256]


def test_a_recipe_says_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('corpus = "c"\n[model]\nn_layer = 3\n[training]\nepochs = 2\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/other.toml").write_text('base = "../base.toml"\n[model]\nn_head = 6\n[training]\nsteps = 5\n')
    recipe = load_recipe(tmp_path / "sub/other.toml", ["model.norm=rms"])
    assert isinstance(recipe.model, GPTSection)
    assert (recipe.model.n_layer, recipe.model.n_head, recipe.model.norm) == (3, 6, "rms")
    assert (recipe.training.steps, recipe.training.epochs) == (5, None), "the new length takes the old one's place"


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("[training]\nsteps = 5\nepochs = 3.0", r"give exactly one of steps, .* \(given: steps, epochs\)"),
        ("[foo]", "foo: there is no such field"),
        ('"model.n_layer" = 7', "model.n_layer: there is no such field"),
        ("model = 3", "model: should be a section of fields"),
    ],
)
def test_a_recipe_with_a_base_is_read_as_strictly_as_one_without(tmp_path: Path, child: str, message: str) -> None:
    (tmp_path / "base.toml").write_text('corpus = "c"\n[model]\nn_layer = 3\n[training]\nepochs = 2.0\n')
    (tmp_path / "child.toml").write_text(f'base = "base.toml"\n{child}\n')
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "child.toml")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("one.toml", "its own base"),
        ("gone.toml", "one.toml: base: .*gone.toml: there is no such recipe file"),
        ("broken.toml", "broken.toml: not valid TOML"),
        (3, "base: should be the path of a recipe file"),
    ],
)
def test_a_base_that_is_none_is_refused(tmp_path: Path, base: Any, message: str) -> None:
    (tmp_path / "broken.toml").write_text("= 3")
    (tmp_path / "one.toml").write_text(f"base = {base!r}")
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "one.toml")


def test_two_lengths_are_named_beside_what_else_is_wrong() -> None:
    message = complaint(minimal(training={"steps": 1, "epochs": 2.0, "learning_rate": "x"}))
    assert "training.learning_rate: should be a valid number" in message
    assert "give exactly one of steps, tokens, tokens_per_parameter, epochs (given: steps, epochs)" in message


def test_there_are_recipes() -> None:
    assert {"quickstart", "gpt2-small"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("field", SETTLED_FIELDS)
def test_round_trip_through_toml(tmp_path: Path, field: str) -> None:
    recipe = tiny_recipe({field: OTHER[field]})
    (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
    again = load_recipe(tmp_path / "r.toml")
    assert again == recipe
    assert again.model_dump(exclude_unset=True) == recipe.model_dump(exclude_unset=True)
    assert recipe_from(recipe.model_dump(), "r") == recipe, "as resolved.json keeps it"


def test_to_toml_holds_what_was_set_and_no_more() -> None:
    assert recipe_from(minimal(model={"n_layer": 2}), "r").to_toml() == (
        'corpus = "c"\n\n[model]\nn_layer = 2\n\n[training]\nsteps = 10\n'
    )


def test_a_recipe_is_frozen() -> None:
    recipe = tiny_recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.corpus = "other"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model.n_layer = 7  # pyright: ignore[reportAttributeAccessIssue]


def test_replaced_leaves_the_original_and_validates() -> None:
    recipe = tiny_recipe()
    assert recipe.replaced({"model.n_layer": 5}).model.n_layer == 5
    assert recipe.model.n_layer == 2
    with pytest.raises(RecipeError, match="multiple of n_head"):
        recipe.replaced({"model.n_head": 3})


def test_schema_is_json_that_knows_every_field() -> None:
    schema = Recipe.model_json_schema()
    json.dumps(schema)
    known = {name for part in schema["$defs"].values() for name in part.get("properties", {})}
    assert {name.rpartition(".")[2] for name in field_names(Recipe) if "." in name} <= known
    assert set(schema["required"]) == {"corpus", "training"}


def test_settled_is_the_resolved_view() -> None:
    settled = tiny_recipe().settled
    assert (settled.steps, settled.precision, settled.device, settled.threads) == (8, "float32", "cpu", 1)
    with pytest.raises(AssertionError):
        _ = recipe_from(minimal(), "r").settled


def test_differences_are_the_fields_that_differ() -> None:
    recipe = tiny_recipe()
    changed = recipe.replaced({"model.dropout": 0.5, "seeds.data": 4})
    assert differences(recipe, changed) == {"model.dropout": (0.0, 0.5), "seeds.data": (1, 4)}
    assert differences(recipe, recipe) == {}


# How it refuses.


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (minimal(model={"n_layers": 3}), "model.n_layers: there is no such field (did you mean model.n_layer?)."),
        (minimal(mode={}), "mode: there is no such field (did you mean model?)."),
        (minimal(n_layer=3), "n_layer: there is no such field (did you mean model.n_layer?)."),
        (minimal(zzz=3), "zzz: there is no such field."),
        (minimal(model={"n_layer": "four"}), "model.n_layer: should be a valid integer, not 'four'."),
        (minimal(model={"n_layer": 2.0}), "model.n_layer: should be a valid integer, not 2.0."),
        (minimal(model={"n_layer": True}), "model.n_layer: should be a valid integer, not True."),
        (minimal(model={"n_layer": 0}), "model.n_layer: should be greater than or equal to 1, not 0."),
        (minimal(model={"tie_weights": 1}), "model.tie_weights: should be a valid boolean, not 1."),
        (minimal(model={"dropout": 1.0}), "model.dropout: should be less than 1, not 1.0."),
        (minimal(model={"dropout": float("nan")}), "model.dropout: should be a finite number, not nan."),
        (minimal(model=3), "model: should be a section of fields, not 3."),
        (minimal(evaluation="x"), "evaluation: should be a section of fields, not 'x'."),
        (minimal(model={"architecture": "cnn"}), "model.architecture: should be 'gpt' or 'rnn'."),
        (minimal(model={"architecture": "rnn", "n_head": 2}), "model.n_head: there is no such field"),
        (minimal(model={"architecture": "rnn", "cell": "lstn"}), "model.cell: should be 'elman', 'gru' or 'lstm'"),
        (
            minimal(training={"steps": 1, "optimizer": "rmsprop"}),
            "training: optimizer = 'rmsprop' has no weight decay",
        ),
        (minimal(model={"n_head": 5}), "model: d_model (768) must be a multiple of n_head (5)"),
        (
            minimal(execution={"micro_batch_size": 0}),
            "execution.micro_batch_size: should be greater than or equal to 1 or 'auto', not 0.",
        ),
        (minimal(execution={"compile": "yes"}), "execution.compile: should be a valid boolean or 'auto', not 'yes'."),
        (minimal(execution={"device": "gpu"}), "execution.device: should be of the form (auto|cpu|mps|cuda|cuda:"),
        (minimal(seeds={"init": -1}), "seeds.init: should be greater than or equal to 0, not -1."),
        ({"training": {"steps": 1}}, "corpus: this field is needed."),
        ({"corpus": "c"}, "training: this field is needed."),
        ({"corpus": "c", "training": {}}, "training: give exactly one of steps, tokens, tokens_per_parameter, epochs"),
        ({"corpus": "c", "training": {"steps": 1, "epochs": 1.0}}, "(given: steps, epochs)"),
        (
            {"corpus": "c", "training": {"steps": 1, "warmup_steps": 2}},
            "warmup_steps (2) is more than training.steps (1)",
        ),
    ],
)
def test_each_mistake_has_its_sentence(tables: dict[str, Any], message: str) -> None:
    text = complaint(tables)
    assert message in text
    assert text.startswith("r.toml: 1 problem\n"), text


def test_precision_names_every_choice_in_one_sentence() -> None:
    text = complaint(minimal(training={"steps": 1, "precision": "fast"}))
    assert text.startswith("r.toml: 1 problem\n")
    assert all(f"'{choice}'" in text for choice in ("float32", "tf32", "bf16", "fp16", "auto"))
    assert text.endswith("not 'fast'.")


def test_all_problems_of_a_file_at_once() -> None:
    text = complaint({"training": {"steps": -1, "precison": "bf16"}, "model": {"dropout": -1.0}, "execution": {"x": 1}})
    lines = text.splitlines()
    assert lines[0] == "r.toml: 5 problems"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "corpus",
        "execution.x",
        "model.dropout",
        "training.precison",
        "training.steps",
    ]


def test_a_file_that_is_not_there_suggests_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text("")
    with pytest.raises(RecipeError, match=r"quik.toml: there is no such recipe file \(there is .*quick.toml\)"):
        load_recipe(tmp_path / "quik.toml")
    with pytest.raises(RecipeError, match="there is no such recipe file"):
        load_recipe(tmp_path)


def test_bad_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('corpus = "c"\n[training\n')
    with pytest.raises(RecipeError, match=r"r.toml: not valid TOML: .*line 2"):
        load_recipe(path)
    path.write_bytes(b'corpus = "\xff"')
    with pytest.raises(RecipeError, match=r"r.toml: not valid TOML"):
        load_recipe(path)


# Overrides.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.steps=500", ("training.steps", 500)),
        ("training.learning_rate=1e-3", ("training.learning_rate", 1e-3)),
        ("training.tokens=20_000_000", ("training.tokens", 20_000_000)),
        ("model.tie_weights=false", ("model.tie_weights", False)),
        ("training.schedule=wsd", ("training.schedule", "wsd")),
        ('training.schedule="wsd"', ("training.schedule", "wsd")),
        ("corpus=corpora/mine", ("corpus", "corpora/mine")),
        ("corpus=a=b", ("corpus", "a=b")),
        (" training.steps = 5 ", ("training.steps", 5)),
        ("execution.device=cuda:0", ("execution.device", "cuda:0")),
        ("execution.compile=", ("execution.compile", "")),
    ],
)
def test_override_values_are_toml_and_bare_words_strings(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["training.steps", "=5", "", "--steps"])
def test_what_is_no_override_says_what_one_is(text: str) -> None:
    with pytest.raises(RecipeError, match=r"an override is dotted.path=value, for example training.steps=500"):
        parse_override(text)


@modest
@given(text=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=20))
def test_any_override_is_taken_or_refused_in_a_sentence(text: str) -> None:
    try:
        dotted, _ = parse_override(text)
    except RecipeError:
        dotted = ""
    assert dotted == dotted.strip()


def test_overrides_merge_before_validation(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('corpus = "c"\n[training]\nsteps = 10\nlearning_rate = 1e-4\n')
    recipe = load_recipe(path, ["model.n_head=5", "model.d_model=50", "training.learning_rate=0.5", "corpus=mine"])
    assert (recipe.model.d_model, recipe.training.learning_rate, recipe.corpus) == (50, 0.5, "mine")
    with pytest.raises(RecipeError, match=r"corpus.x: corpus is a value, not a section"):
        load_recipe(path, ["corpus.x=1"])
    with pytest.raises(RecipeError, match=r"model.n_layr: there is no such field \(did you mean model.n_layer\?\)"):
        load_recipe(path, ["model.n_layr=1"])


@pytest.mark.parametrize("override", ["training.steps=3", "training.tokens=3", "training.epochs=0.5"])
def test_a_new_length_takes_the_old_ones_place(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text('corpus = "c"\n[training]\ntokens_per_parameter = 20\n')
    training = load_recipe(path, [override]).training
    assert training.tokens_per_parameter is None
    assert getattr(training, override.partition("=")[0].rpartition(".")[2]) is not None


# The fingerprint.


def test_every_field_is_in_the_table_of_other_values() -> None:
    assert sorted(OTHER) == sorted(field_names(Recipe)), (
        "a new field needs another value here: does it change the result?"
    )


@pytest.mark.parametrize("field", SETTLED_FIELDS)
def test_fingerprint_changes_with_what_matters_and_with_nothing_else(field: str) -> None:
    before, after = tiny_recipe(), tiny_recipe({field: OTHER[field]})
    assert (print_of(before) == print_of(after)) == (field in NEUTRAL)


def test_fingerprint_does_not_see_defaults_spelled_out() -> None:
    recipe = tiny_recipe()
    assert print_of(recipe_from(recipe.model_dump(), "r")) == print_of(recipe)
    assert print_of(tiny_recipe({"seeds.init": 1, "training.clip_norm": 1})) == print_of(recipe)


def test_fingerprint_knows_corpora_by_hash() -> None:
    recipe, scored = tiny_recipe(), tiny_recipe({"evaluation.corpus": "corpora/fixed"})
    assert fingerprint(recipe, "a" * 64) != fingerprint(recipe, "b" * 64)
    assert fingerprint(scored, CORPUS, "a" * 64) != fingerprint(scored, CORPUS, "b" * 64)
    moved = tiny_recipe({"evaluation.corpus": "elsewhere/fixed"})
    assert fingerprint(scored, CORPUS, "a" * 64) == fingerprint(moved, CORPUS, "a" * 64)


def test_fingerprint_is_what_it_always_was() -> None:
    found = print_of(tiny_recipe({"training.warmup_steps": 2}))
    assert found == "1bac63dbc10a15a7c3756db51640e778316936f3f4bc0d6c3bef89d7e5247bf7", (
        "The fingerprint of an unchanged recipe has changed, so that no earlier run is recognized. If that is meant "
        f"(NUMERICS_VERSION was raised, or what is hashed), say so in CHANGELOG.md and put {found!r} here."
    )
