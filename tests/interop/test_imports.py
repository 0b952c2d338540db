"""Foreign weights: what they compute here is what they computed there, and nothing is taken for what it is not."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import others
import pytest
import tiktoken
import torch
from others import BOOK, NANO_ARGS, SYMBOLS, TEXT
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.chat import CHATML, ChatTemplate, Message
from scratchlab.corpus.tokenizer import GPT2_PATTERN, Tokenizer
from scratchlab.errors import CorpusError, RecipeError, RunError, ScratchlabError, UsageError
from scratchlab.interop.exports import write_run
from scratchlab.interop.hugging_face_scorer import cache_name, cache_of
from scratchlab.interop.imports import import_run
from scratchlab.model.gpt import GPT
from scratchlab.model.load import load_model
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import resume, train
from tiny import distance

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(others.make_tokenizer().to_json(), encoding="utf-8")
    return path


def make_gpt2(folder: Path, tokenizer: Path | None, **changes: Any) -> GPT2LMHeadModel:
    """A GPT-2 with random weights as transformers saves it."""
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 16, "vocab_size": SYMBOLS}
    end = {"bos_token_id": SYMBOLS - 1, "eos_token_id": SYMBOLS - 1}
    model = GPT2LMHeadModel(GPT2Config(**(sizes | end | changes))).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    if tokenizer:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    return model


def imported(source: Path, out: Path, **options: Any) -> GPT:
    model = load_model(import_run(str(source), out, **options), device="cpu")
    assert isinstance(model, GPT)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(SYMBOLS, (rows, length), generator=torch.Generator().manual_seed(5))


KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "another-mlp": {"activation_function": "relu", "n_inner": 48, "attn_pdrop": 0.0},
    "exact-gelu": {"activation_function": "gelu"},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    theirs = make_gpt2(tmp_path / "hf", tokenizer, **KINDS[kind])
    ours, text = imported(tmp_path / "hf", tmp_path / "run"), tokens(3, 16)
    assert distance(ours(text)[0], theirs(text).logits) < 1e-5
    # Cached, a few tokens at a time.
    state, cache = ours.new_state(3, 16), None
    for piece in text.split([5, 1, 1, 6, 3], dim=1):
        logits, state = ours(piece, state)
        answer = theirs(piece, use_cache=True, **{str(cache_name(theirs)): cache})
        cache = cache_of(answer)
        assert distance(logits, answer.logits) < 1e-5


@torch.no_grad()
def test_logits_are_those_of_transformers_with_padding(tmp_path: Path, tokenizer: Path) -> None:
    theirs = make_gpt2(tmp_path / "hf", tokenizer)
    ours, text, lengths = imported(tmp_path / "hf", tmp_path / "run"), tokens(3, 12), [12, 7, 4]
    for side in ("left", "right"):
        real = torch.stack([torch.arange(12) < length for length in lengths])
        real = real.flip(1) if side == "left" else real
        positions = (real.cumsum(1) - 1).clamp(min=0)
        mine = ours(text, positions=positions, documents=real.long())[0]
        answer = theirs(text, attention_mask=real.long(), position_ids=positions).logits
        assert distance(mine[real], answer[real]) < 1e-5


@torch.no_grad()
def test_rows_of_unequal_length_go_on_from_a_cache(tmp_path: Path, tokenizer: Path) -> None:
    """Prompts padded at the right are read; what follows takes the place of the padding."""
    theirs = make_gpt2(tmp_path / "hf", tokenizer)
    ours, text, lengths = imported(tmp_path / "hf", tmp_path / "run"), tokens(3, 12), [9, 7, 4]
    _, state = ours(text[:, :9], ours.new_state(3, 16))
    assert state is not None
    state.lengths = lengths
    following = tokens(3, 12)[:, 9:]
    mine = torch.cat([ours(following[:, [step]], state)[0] for step in range(3)], dim=1)
    for row, length in enumerate(lengths):
        alone = torch.cat([text[row, :length], following[row]])[None]
        assert distance(mine[row], theirs(alone).logits[0, -3:]) < 1e-5


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_nanogpt_checkpoint_computes_what_it_did(bias: bool, tmp_path: Path, tokenizer: Path) -> None:
    weights = others.save_nano(tmp_path / "ckpt.pt", bias)
    ours = imported(tmp_path, tmp_path / "run", tokenizer=str(tokenizer))
    assert (ours.config.bias, ours.config.dropout, ours.config.mlp) == (bias, 0.1, "gelu")
    text = tokens(2, 12)
    theirs = others.nano_logits(weights, text)
    assert distance(ours(text)[0], theirs[..., :SYMBOLS]) < 1e-5  # what it was padded with can never be written
    assert ours.head_weight.shape == (NANO_ARGS["vocab_size"], 16)


BOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "pth": ("pth", {}),
    "pth-with-optimizer": ("both", {"qkv_bias": True}),
    "safetensors": ("safetensors", {"tie_weights": False}),
}


@pytest.mark.parametrize("kind", BOOKS)
@torch.no_grad()
def test_a_checkpoint_of_the_book_computes_what_it_did(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    format_, changes = BOOKS[kind]
    settings = BOOK | changes
    weights = others.book_weights(settings)
    source = others.save_book(tmp_path / "theirs", settings, weights, format_)
    ours, text = imported(source, tmp_path / "run", tokenizer=str(tokenizer.parent)), tokens(2, 12)
    assert distance(ours(text)[0], others.book_logits(weights, settings, text)) < 1e-5


@pytest.mark.parametrize("saved_as", ["tok_emb.weight", "out_head.weight", "both"])
@torch.no_grad()
def test_a_tied_checkpoint_of_the_book_is_tied_here(saved_as: str, tmp_path: Path, tokenizer: Path) -> None:
    """Of two names for one matrix safetensors keeps one."""
    settings = BOOK | {"tie_weights": True}
    weights = others.book_weights(settings)
    weights["out_head.weight"] = weights["tok_emb.weight"].clone()
    copies = ("tok_emb.weight", "out_head.weight")
    kept = {name: tensor for name, tensor in weights.items() if name not in copies or saved_as in (name, "both")}
    source = others.save_book(tmp_path / "theirs", settings, kept, "safetensors")
    ours, text = imported(source, tmp_path / "run", tokenizer=str(tokenizer)), tokens(2, 12)
    assert ours.head is None
    assert distance(ours(text)[0], others.book_logits(weights, settings, text)) < 1e-5


# There and back.


@pytest.mark.parametrize("kind", KINDS)
def test_import_export_import_is_the_identity(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    make_gpt2(tmp_path / "hf", tokenizer, **KINDS[kind])
    once = import_run(str(tmp_path / "hf"), tmp_path / "once")
    files = write_run(once, tmp_path / "out")
    written = ("config", "generation_config", "tokenizer", "tokenizer_config")
    assert set(files) == {"model.safetensors", *(f"{name}.json" for name in written)}
    theirs, back = (load_file(tmp_path / place / "model.safetensors") for place in ("hf", "out"))
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[name], back[name]) for name in theirs)
    twice = import_run(str(tmp_path / "out"), tmp_path / "twice")
    (first, second) = (load_file(run.last_good_checkpoint()[0][0]) for run in (once, twice))  # pyright: ignore
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert once.recipe().model == twice.recipe().model
    assert once.tokenizer_path.read_text(encoding="utf-8") == twice.tokenizer_path.read_text(encoding="utf-8")


@torch.no_grad()
def test_transformers_loads_an_export_by_itself(tmp_path: Path, tokenizer: Path) -> None:
    """Also of a model without biases and with a padded vocabulary, which GPT-2 there does not know."""
    weights = others.save_nano(tmp_path / "ckpt.pt", bias=False)
    write_run(import_run(str(tmp_path), tmp_path / "run", str(tokenizer)), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is GPT2LMHeadModel
    text = tokens(2, 12)
    assert distance(model(text).logits, others.nano_logits(weights, text)[..., :SYMBOLS]) < 1e-5
    spoken = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert spoken(TEXT)["input_ids"] == Tokenizer.load(tokenizer).encode(TEXT).tolist()
    assert spoken.eos_token == "<|endoftext|>"


def test_an_export_is_spoken_to_as_the_run_is(tmp_path: Path, tokenizer: Path) -> None:
    spoken = Tokenizer.load(tokenizer).with_specials(["<|im_start|>", "<|im_end|>"])
    (tmp_path / "tokenizer.json").write_text(spoken.to_json(), encoding="utf-8")
    make_gpt2(tmp_path / "hf", tmp_path / "tokenizer.json", vocab_size=spoken.vocab_size)
    run = import_run(str(tmp_path / "hf"), tmp_path / "run")
    run.chat_template_path.write_text(CHATML, encoding="utf-8")
    write_run(run, tmp_path / "out")
    talk: list[Message] = [{"role": "user", "content": "Every effort"}, {"role": "assistant", "content": "moves you"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.apply_chat_template(talk, tokenize=False) == ChatTemplate(CHATML).render(talk)
    ids = theirs.apply_chat_template(talk[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == ChatTemplate(CHATML).prompt(spoken, talk[:1])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [spoken.end_of_text, spoken.specials["<|im_end|>"]]


def test_what_has_no_class_there_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    build_corpus([str(tmp_path / "text.txt")], tmp_path / "corpus", "char")
    usual = ["training.steps=0", f"corpus={tmp_path / 'corpus'}", "evaluation.sample_tokens=0"]
    changes = [*usual, "model.positions=rotary", "model.mlp=swiglu", "model.residual=false"]
    train(load_recipe(ROOT / "recipes/tiny.toml", changes), tmp_path / "gpt")
    few = [*usual, "training.global_batch_size=4"]
    train(load_recipe(ROOT / "recipes/char-rnn-karpathy.toml", few), tmp_path / "rnn")
    for run, custom, complaint in (
        ("gpt", False, "knows no residual = False; norm = 'layer'"),
        ("rnn", False, "is a recurrent network"),
        ("rnn", True, "is a recurrent network .*code of a GPT alone"),
    ):
        with pytest.raises(RunError, match=complaint):
            write_run(RunFolder.open(tmp_path / run), tmp_path / "out", custom=custom)
        assert not (tmp_path / "out").exists()
    assert "modeling_scratchlab.py" in write_run(RunFolder.open(tmp_path / "gpt"), tmp_path / "out", custom=True)


# What an import is good for.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A folder with an imported run and a corpus with its tokenizer."""
    folder = tmp_path_factory.mktemp("place")
    make_gpt2(folder / "hf", tokenizer)
    import_run(str(folder / "hf"), folder / "gpt2")
    (folder / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", str(folder / "gpt2"))
    return folder


def test_a_corpus_takes_the_tokenizer_of_a_run(place: Path) -> None:
    stored = [(place / part / "tokenizer.json").read_text(encoding="utf-8") for part in ("gpt2", "corpus")]
    assert stored[0] == stored[1]


def begin(place: Path, *changes: str) -> dict[str, Any]:
    usual = [f"corpus={place / 'corpus'}", "training.steps=3"]  # the recipe of an import begins from it by itself
    recipe = load_recipe(place / "gpt2/recipe.toml", [*usual, "training.global_batch_size=2", *changes])
    name = f"run-{len(list(place.iterdir()))}"
    return train(recipe, place / name) | {"name": name}


def test_an_import_is_trained_on_and_what_it_came_from_is_kept(place: Path) -> None:
    result = begin(place, "evaluation.sample_tokens=0")
    lineage = RunFolder.open(place / result["name"]).manifest()["lineage"]
    assert [(record["run"], record["step"], record["tokens"]) for record in lineage] == [(str(place / "gpt2"), 0, 0)]
    assert lineage[0]["imported"]["format"] == "Hugging Face GPT-2"
    again = begin(place, f"start.weights={place / result['name']}", "evaluation.sample_tokens=0")
    assert (result["tokens_with_lineage"], again["tokens_with_lineage"]) == (3 * 2 * 16, 2 * 3 * 2 * 16)
    assert len(RunFolder.open(place / again["name"]).manifest()["lineage"]) == 2


def test_no_steps_score_the_weights_as_they_are(place: Path) -> None:
    result = begin(place, "training.steps=0", "evaluation.sample_tokens=0")
    model = load_model(RunFolder.open(place / "gpt2"), device="cpu")
    unchanged = load_model(RunFolder.open(place / result["name"]), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), unchanged.parameters(), strict=True))
    assert result["validation"]["nats_per_token"] > 0
    assert "forecast" not in result  # which is of training
    assert resume(place / result["name"]) == {key: value for key, value in result.items() if key != "name"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("start.optimizer=kept", "was imported, and has weights alone"),
        ("model.n_head=2", "was trained with model.n_head = 4"),
        ("model.mlp=gelu", "was trained with model.mlp = 'gelu_tanh'"),
        ("model.n_layer=3", "blocks.2"),
        ("corpus=", "has none to train on"),
        ("start.at=best", "has no best snapshot"),
        ("start.data=continued", "only then is there a place to go on from"),
    ],
)
def test_what_does_not_fit_an_import_is_refused(place: Path, change: str, complaint: str) -> None:
    with pytest.raises(ScratchlabError, match=complaint):
        begin(place, change)


def test_an_import_has_nothing_to_resume(place: Path) -> None:
    with pytest.raises(RunError, match=r"Begin a run from it: start.weights="):
        resume(place / "gpt2")


def test_a_character_tokenizer_is_not_stretched_over_documents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name + TEXT, encoding="utf-8")
    build_corpus([str(tmp_path / "a.txt")], tmp_path / "one", "char")
    with pytest.raises(CorpusError, match="between 2 documents"):
        build_corpus([str(tmp_path / f"{name}.txt") for name in ("a", "b")], tmp_path / "two", str(tmp_path / "one"))
    assert not (tmp_path / "two").exists()


# What cannot be taken for granted.


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "opt"}, "model_type = 'opt'; known here are gpt2, llama"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"activation_function": "silu"}, "activation_function = 'silu'; known here are gelu_new"),
        ({"n_embd": ...}, "n_embd is missing: a whole number"),
        ({"n_head": 5}, "multiple of n_head"),
        ({"n_layer": 1}, "h.1.attn.c_attn.bias is nothing this model has"),
        ({"n_layer": 3}, "h.2.ln_1.weight is missing"),
        ({"n_positions": 8}, r"wpe.weight is \(16, 32\) where \(8, 32\) is expected"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"vocab_size": "280", "n_inner": 0}, "vocab_size = '280'; n_inner = 0: a whole number above 0"),
        ({"n_layer": 10**9}, "28 tensors, too few for 1,000,000,000 layers"),
        ({"activation_function": ["gelu"]}, "activation_function = "),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(
    changes: dict[str, Any], complaint: str, tmp_path: Path, tokenizer: Path
) -> None:
    make_gpt2(tmp_path / "hf", tokenizer)
    change_json(tmp_path / "hf/config.json", **changes)
    with pytest.raises(RunError, match=complaint):
        import_run(str(tmp_path / "hf"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensors_that_are_not_weights_are_refused_by_name(tmp_path: Path, tokenizer: Path) -> None:
    make_gpt2(tmp_path / "hf", tokenizer)
    weights, path = load_file(tmp_path / "hf/model.safetensors"), tmp_path / "hf/model.safetensors"
    quantized = "transformer.h.0.mlp.c_fc.weight"
    save_file(weights | {"score.weight": torch.ones(2), quantized: weights[quantized].to(torch.int8)}, path)
    with pytest.raises(RunError, match=r"h.0.mlp.c_fc.weight is int8.*; score.weight is nothing this model has"):
        import_run(str(tmp_path / "hf"), tmp_path / "run")
    save_file(weights | {"lm_head.weight": torch.zeros(SYMBOLS, 32)}, path)
    with pytest.raises(RunError, match=r"said to be tied, and yet lm_head.weight is not wte.weight"):
        import_run(str(tmp_path / "hf"), tmp_path / "run")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model.safetensors could not be read"):
        import_run(str(tmp_path / "hf"), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"moe": {"num_experts": 6}}, "moe: this is not in the book's model"),
        ({"n_heads": ...}, "n_heads is missing"),
        ({"qkv_bias": True}, "W_query.bias is missing"),
        ({"emb_dim": "wide"}, "emb_dim = 'wide': a whole number"),
        ({"tie_weights": True}, "out_head.weight is not tok_emb.weight"),
    ],
)
def test_settings_of_the_book_that_do_not_fit_are_refused(
    settings: dict[str, Any], complaint: str, tmp_path: Path, tokenizer: Path
) -> None:
    source = others.save_book(tmp_path / "theirs", BOOK, others.book_weights(BOOK), "pth")
    change_json(tmp_path / "theirs/model.json", **settings)
    with pytest.raises(RunError, match=complaint):
        import_run(str(source), tmp_path / "run", str(tokenizer))


def test_without_settings_the_message_holds_a_draft_of_them(tmp_path: Path, tokenizer: Path) -> None:
    source = others.save_book(tmp_path / "theirs", BOOK, others.book_weights(BOOK), "pth")
    (tmp_path / "theirs/model.json").unlink()
    with pytest.raises(RunError, match="heads for null") as caught:
        import_run(str(source), tmp_path / "run", str(tokenizer))
    draft = str(caught.value).partition("model): ")[2]
    (tmp_path / "theirs/model.json").write_text(draft.replace("null", "4"), encoding="utf-8")
    assert json.loads(draft) == BOOK | {"n_heads": None}
    import_run(str(source), tmp_path / "run", str(tokenizer))


class Trap:
    """What a hostile file would do when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_a_pickle_that_would_run_something_is_not_opened(tmp_path: Path, tokenizer: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    others.save_nano(tmp_path / "ckpt.pt", bias=False, config=trap)
    with pytest.raises(RunError, match="nothing of it was executed"):
        import_run(str(tmp_path / "ckpt.pt"), tmp_path / "run", str(tokenizer))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(trap))
    with pytest.raises(RunError, match=r"plain.pth"):
        import_run(str(tmp_path / "plain.pth"), tmp_path / "run", str(tokenizer))
    assert not trap.target.exists()


def test_whatever_else_is_said_of_a_source_is_checked(tmp_path: Path, tokenizer: Path) -> None:
    make_gpt2(tmp_path / "hf", None)
    source, out, spoken = str(tmp_path / "hf"), tmp_path / "run", str(tokenizer)
    (tmp_path / "noise.pth").write_bytes(b"\x00" * 100)
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty").mkdir()
    small = tmp_path / "small.json"
    small.write_text(others.train_tokenizer("bpe:275", [TEXT]).to_json(), encoding="utf-8")
    large = tmp_path / "large.json"
    large.write_text(others.train_tokenizer("bpe:300", [TEXT]).to_json(), encoding="utf-8")
    expected: list[tuple[tuple[Any, ...], type[ScratchlabError], str]] = [
        ((source, out), CorpusError, "brings no tokenizer"),
        ((source, out, str(tmp_path / "empty")), CorpusError, "brings no tokenizer"),
        ((source, out, "no/such/place/"), CorpusError, "no such file"),
        ((source, out, str(large)), RunError, "280 rows in its embedding and its tokenizer 300 symbols"),
        ((source, out, spoken, "main"), UsageError, "--revision is for names on the Hub"),
        ((source, tmp_path / "empty", spoken), RunError, "exists already"),
        (("no/such/place", out), RunError, "no such file or folder"),
        ((str(tmp_path / "empty"), out), RunError, "it has no weights"),
        ((str(tmp_path / "noise.pth"), out), RunError, "noise.pth"),
        ((str(tmp_path / "other.pth"), out), RunError, "its tensors are w. Known are"),
        ((str(tmp_path / "list.pth"), out), RunError, "no state_dict"),
    ]
    for arguments, error, message in expected:
        with pytest.raises(error, match=message):
            import_run(*arguments)
        assert not out.exists()
    assert import_run(source, out, str(small)).recipe().model.model_dump()["vocab_multiple"] == 8
    with pytest.raises(RunError, match="is a run already"):
        import_run(str(out), tmp_path / "another")


def test_older_files_are_read_too(tmp_path: Path, tokenizer: Path) -> None:
    """Weights in several files, weights pickled, a vocabulary with its merges."""
    make_gpt2(tmp_path / "hf", None)
    weights = load_file(tmp_path / "hf/model.safetensors")
    stored = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in stored["merges"]]
    vocabulary = stored["vocab"] | {"<|endoftext|>": SYMBOLS - 1}
    (tmp_path / "hf/vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "hf/merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    shutil.copytree(tmp_path / "hf", tmp_path / "sharded")
    (tmp_path / "sharded/model.safetensors").unlink()
    shutil.copytree(tmp_path / "sharded", tmp_path / "pickled")
    halves = dict(list(weights.items())[:9]), dict(list(weights.items())[9:])
    index = {name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half}
    for number, half in enumerate(halves):
        save_file(half, tmp_path / f"sharded/model-{number}.safetensors")
    (tmp_path / "sharded/model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    torch.save(weights, tmp_path / "pickled/pytorch_model.bin")
    models = [imported(tmp_path / name, tmp_path / f"{name}-run") for name in ("hf", "sharded", "pickled")]
    for other in models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), other.parameters(), strict=True))
    spoken = Tokenizer.load(tmp_path / "hf-run/tokenizer.json")
    assert spoken.encode(TEXT).tolist() == Tokenizer.load(tokenizer).encode(TEXT).tolist()
    assert spoken.end_of_text == SYMBOLS - 1
    (tmp_path / "sharded/model-1.safetensors").unlink()
    with pytest.raises(RunError, match=r"names model-1.safetensors, and there is no such file"):
        import_run(str(tmp_path / "sharded"), tmp_path / "run")


def test_gpt2_is_a_tokenizer_by_name(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_gpt2(tmp_path / "hf", None)
    spoken = Tokenizer.load(tokenizer)
    ranks = {spoken.token_bytes(token): token for token in range(SYMBOLS - 1)}
    small = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": small}.__getitem__)
    monkeypatch.chdir(tmp_path)
    run = import_run("hf", tmp_path / "run", "gpt2")
    assert Tokenizer.load(run.tokenizer_path).encode(TEXT).tolist() == spoken.encode(TEXT).tolist()
    write_run(run, tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXT)["input_ids"] == spoken.encode(TEXT).tolist()
    assert theirs.eos_token_id == SYMBOLS - 1


def test_from_python_an_import_is_a_run_as_any(place: Path) -> None:
    logits = scratchlab.load(place / "gpt2")(tokens(1, 4))
    assert logits.shape == (1, 4, SYMBOLS)
    with pytest.raises(RecipeError, match="has none to train on"):
        scratchlab.train(place / "gpt2/recipe.toml", out=place / "never")
