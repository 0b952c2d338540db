"""Exports: transformers loads them by itself and finds what ours does, and they come back as they were."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import others
import pytest
import torch
from click.testing import CliRunner
from exported import KINDS, MODERN, export, exported_weights, greedy, lively
from exported import expect as expect_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, pipeline

from scratchlab.architecture import GPTSection
from scratchlab.cli.main import cli
from scratchlab.corpus.chat import TEMPLATES
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import RunError
from scratchlab.interop.custom import FILES, source_of
from scratchlab.interop.exports import write_run
from scratchlab.interop.imports import import_run
from scratchlab.model.gpt import GPT
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from switches import BASE, END, ROWS, VOCAB, tokens_with_documents
from switches import lively as lively_row
from tiny import distance
from tiny_run import make_run

LOADER = Path(__file__).with_name("load_export.py")
NO_CLASS = {"norm": "rms", "positions": "rotary", "qk_norm": True, "mlp": "relu2", "logit_cap": 15.0}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return others.make_tokenizer()


@pytest.fixture(scope="session", autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers copies the code that exports bring."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def written_by(model: Any, prompt: list[int], n_new: int) -> list[int]:
    given = torch.tensor([prompt])
    model.generation_config.eos_token_id = None
    written = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=n_new, do_sample=False, pad_token_id=0
    )
    return written[0, len(prompt) :].tolist()


def read_back(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint, _ = run.last_good_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint[0])


# Classes of transformers' own.


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_class_of_transformers_finds_what_ours_does(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    name, fields = KINDS[kind]
    ours = lively(fields, tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == name
    tokens = torch.randint(tokenizer.vocab_size, (3, 24), generator=torch.Generator().manual_seed(5))
    assert distance(ours(tokens)[0], theirs(tokens).logits) < 1e-5
    prompt = tokenizer.encode(others.TEXT)[:5].tolist()
    assert written_by(theirs, prompt, 18) == greedy(ours, prompt, 18)
    # And back: from what was exported, and from what transformers made of that.
    theirs.save_pretrained(tmp_path / "again")
    tokenizer_file = str(folder / "tokenizer.json")
    for place in ("out", "again"):
        run = import_run(str(tmp_path / place), tmp_path / f"{place}-run", tokenizer_file)
        assert run.recipe().model == ours.config.model_copy(update={"vocab_multiple": 1})
        back, before = read_back(run), exported_weights(ours, tokenizer)
        assert back.keys() == before.keys()
        assert all(torch.equal(back[name], before[name]) for name in before)


def test_a_bias_that_is_zero_no_more_stays(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = export(lively(KINDS["starcoder2-windows"][1], tokenizer), tmp_path / "out", tokenizer)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.bias"] += 1
    save_file(weights, folder / "model.safetensors")
    run = import_run(str(folder), tmp_path / "run")
    assert "final_norm.bias" in read_back(run)
    assert run.recipe().model.has_bias("norm")  # pyright: ignore


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        ("llama", {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06 and not 1e-05"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' and not 'silu'"),
        ("llama", {"rope_theta": 5e5}, "rope_theta = 500000.0 and not 10000.0"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
        ("llama", {"head_dim": 16}, "head_dim = 16, and 4 heads"),
        ("llama", {"num_attention_heads": "4"}, "num_attention_heads = '4': a whole number"),
        ("smollm3-windows", {"layer_types": ["sliding_attention", "full_attention"]}, "windows are every layer's here"),
        ("smollm3-windows", {"no_rope_layers": [1, 0]}, "positions are turned in every layer here"),
        ("smollm3-windows", {"no_rope_layers": None}, "positions are turned in every layer here"),
        ("starcoder2", {"norm_epsilon": 1e-6}, "norm_epsilon = 1e-06"),
        ("arcee", {"hidden_act": "silu"}, "hidden_act = 'silu'; known here are gelu_new"),
        ("arcee", {"model_type": "mistral"}, "model_type = 'mistral'; known here are gpt2, llama"),
    ],
)
def test_a_model_that_is_none_of_ours_is_refused_by_name(
    kind: str, changes: dict[str, Any], complaint: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = export(lively(KINDS[kind][1], tokenizer), tmp_path / "out", tokenizer)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(RunError, match=complaint):
        import_run(str(folder), tmp_path / "run")


@pytest.mark.parametrize("slides", [(True, True, True, True), (False, True, False, True), (False,) * 4])
@torch.no_grad()
def test_a_qwen2_of_others_is_read(slides: tuple[bool, ...], tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Which is no more written: transformers gives it Qwen's tokenizer."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = {**sizes, "intermediate_size": 48, "max_position_embeddings": 24, "rms_norm_eps": 1e-5}
    types = ["sliding_attention" if layer else "full_attention" for layer in slides]
    windows = {"use_sliding_window": any(slides), "sliding_window": 5, "layer_types": types}
    config = Qwen2Config(vocab_size=tokenizer.vocab_size, **settings, **windows)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    for number, parameter in enumerate(theirs.parameters()):
        parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    ours = load_model(import_run(str(tmp_path / "theirs"), tmp_path / "run"), device="cpu")
    tokens = torch.randint(tokenizer.vocab_size, (3, 24), generator=torch.Generator().manual_seed(5))
    assert distance(theirs(tokens).logits, ours(tokens)[0]) < 1e-5


def test_what_no_class_of_transformers_is_says_what_is_missing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(RunError, match=r"the nearest, knows no .*logit_cap = 15.0.*--custom"):
        export(lively(NO_CLASS, tokenizer), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("wording", ["alpaca", "chatml"])
def test_what_was_taught_to_answer_comes_back_as_it_was(wording: str, custom: bool, tmp_path: Path) -> None:
    """As it was exported, and as transformers saved that again."""
    tokenizer = others.make_tokenizer().with_specials(["<|im_start|>", "<|im_end|>"])
    run = make_run(tmp_path / "run", tokenizer, TEMPLATES[wording])
    write_run(run, tmp_path / "out", custom=custom)
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        kind.from_pretrained(tmp_path / "out", trust_remote_code=custom).save_pretrained(tmp_path / "again")
    for place in ("out", "again"):
        back = import_run(str(tmp_path / place), tmp_path / f"{place}-run", str(tmp_path / "out/tokenizer.json"))
        assert back.chat_template_path.read_bytes() == run.chat_template_path.read_bytes()
        write_run(back, tmp_path / f"{place}-out", custom=custom)
        for file in (tmp_path / "out").iterdir():
            assert (tmp_path / f"{place}-out" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_template_that_names_no_answer_is_left_out_and_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = export(lively(MODERN, tokenizer), tmp_path / "out", tokenizer)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = [{"name": "default", "template": "{{ messages[0].content }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    run = import_run(str(folder), tmp_path / "run")
    assert not run.chat_template_path.exists()
    assert "does not end the assistant's turn" in run.manifest()["imported"]["chat_template_left_out"]


# Code of its own.


@pytest.fixture(scope="module")
def own_class(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Any:
    """The class that an export brings along."""
    folder = export(lively(NO_CLASS, tokenizer), tmp_path_factory.mktemp("custom") / "out", tokenizer, custom=True)
    return type(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True))


def carried(own_class: Any, ours: GPT, end_of_text: int | None) -> Any:
    """The model in the class that exports bring, without the way over files."""
    table = ours.config.model_copy(update={"vocab_multiple": 1}).model_dump(exclude_defaults=True)
    config = own_class.config_class(scratchlab=table, vocab_size=ours.vocab_size, end_of_text=end_of_text)
    theirs = own_class(config).eval()
    rows = {
        name: ours.vocab_size if name in ("token_embedding.weight", "head.weight") else None
        for name in dict(ours.named_parameters())
    }
    state = {f"model.gpt.{name}": tensor[: rows[name]] for name, tensor in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
@torch.no_grad()
def test_the_code_that_comes_along_is_the_model_page(row: dict[str, Any], own_class: Any) -> None:
    """For every switch: logits, with documents; generation with a cache; and rows that are padded."""
    ours = lively_row(row)
    theirs = carried(own_class, ours, END)
    tokens = tokens_with_documents()
    assert distance(ours(tokens)[0], theirs(tokens).logits) < 1e-5
    prompt = tokens[0, :6].tolist()  # an end of text in it
    assert written_by(theirs, prompt, 2) == greedy(ours, prompt, 2)
    alone = theirs(tokens[1:, :5]).logits
    real = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]])
    rows = torch.stack([tokens[1, :5].new_full((8,), 3), tokens[1]])
    rows[0, 3:] = tokens[1, :5]
    padded = theirs(rows, attention_mask=real).logits
    assert distance(padded[:1, 3:], alone) < 1e-5
    assert distance(padded[1:, :5], alone) < 1e-5
    begun = theirs(rows[:1, :6], attention_mask=real[:1, :6], use_cache=True)
    (cache,) = [value for name, value in begun.items() if name in ("cache", "past_key_values")]
    ended = theirs(rows[:1, 6:], attention_mask=real[:1], use_cache=True, cache=cache).logits
    assert distance(ended, alone[:, 3:]) < 1e-5


def test_the_code_that_comes_along_needs_nothing_of_ours() -> None:
    names: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse(source_of(file))):
            if isinstance(node, ast.ImportFrom):
                names.add("." * node.level + (node.module or ""))
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    tops = {name.partition(".")[0] for name in names if not name.startswith(".")}
    assert tops <= {"collections", "dataclasses", "functools", "itertools", "math", "torch", "transformers", "typing"}
    assert {name for name in names if name.startswith(".")} == {".configuration_scratchlab"}


def test_a_custom_export_comes_back_as_it_was(tmp_path: Path, tokenizer: Tokenizer) -> None:
    fields = NO_CLASS | {"vocab_multiple": 128, "dropout": 0.1, "window": 5, "attention": "explicit"}
    ours = lively(fields, tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom=True)
    run = import_run(str(folder), tmp_path / "run")
    assert run.recipe().model == ours.config.model_copy(update={"vocab_multiple": 1})
    back, before = read_back(run), exported_weights(ours, tokenizer)
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)


@torch.no_grad()
def test_the_code_that_comes_along_loads_in_bfloat16(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Weights stay in float32, and the layers cast them, as in training."""
    ours = lively(NO_CLASS, tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom=True)
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    tokens = torch.randint(tokenizer.vocab_size, (2, 24), generator=torch.Generator().manual_seed(5))
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float32}
    assert 1e-4 < distance(ours(tokens)[0], theirs(tokens).logits) < 3e-2


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("symbols", [290, 100])
def test_the_vocabulary_of_what_brings_code_can_be_resized(
    symbols: int, tied: bool, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Logits of the symbols that stay are the same; it trains, writes, and is saved and loaded again."""
    folder = export(lively(NO_CLASS | {"tie_weights": tied}, tokenizer), tmp_path / "out", tokenizer, custom=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokens = torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = model(tokens).logits
    model.resize_token_embeddings(symbols)
    with torch.no_grad():
        after, kept = model(tokens).logits, min(symbols, tokenizer.vocab_size)
    assert after.shape == (2, 12, symbols)
    assert torch.equal(after[..., :kept], before[..., :kept])
    assert (model.get_output_embeddings() is None) == tied
    model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.generate(tokens, max_new_tokens=3, pad_token_id=0, eos_token_id=None).shape == (2, 15)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, after)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")  # the name that all releases know
@pytest.mark.parametrize("again", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_what_the_backward_pass_needs_can_be_computed_again(
    again: dict[str, bool] | None, own_class: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' gradient checkpointing: the same gradients, each block computed twice, and only where it trains."""
    model = carried(own_class, lively(NO_CLASS, tokenizer), None).train()
    tokens = torch.randint(tokenizer.vocab_size, (2, 12), generator=torch.Generator().manual_seed(5))
    block = type(model.model.gpt.blocks[0])
    computed, forward = [], block.forward
    monkeypatch.setattr(block, "forward", lambda self, *given: computed.append(1) or forward(self, *given))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        computed.clear()
        model(tokens, labels=tokens, use_cache=True).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    assert len(computed) == 2
    model.gradient_checkpointing_enable(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))
    assert len(computed) == 4
    model.gradient_checkpointing_disable()
    gradients()
    assert len(computed) == 2


def test_the_kernel_may_be_asked_for_by_name(tmp_path: Path, tokenizer: Tokenizer) -> None:
    ours = lively(NO_CLASS, tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom=True)
    tokens = torch.randint(tokenizer.vocab_size, (2, 12), generator=torch.Generator().manual_seed(5))
    for name in ("sdpa", "eager"):
        theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, attn_implementation=name)
        with torch.no_grad():
            assert distance(ours(tokens)[0], theirs(tokens).logits) < 1e-5


def test_what_the_code_cannot_give_is_named(own_class: Any, tokenizer: Tokenizer) -> None:
    model = carried(own_class, lively(NO_CLASS, tokenizer), None)
    tokens, vectors = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, 32)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"inputs_embeds": vectors}, "no inputs_embeds"),
        ({"input_ids": tokens, "inputs_embeds": vectors}, "no inputs_embeds"),
        ({"input_ids": tokens, "output_hidden_states": True}, "no output_hidden_states"),
        ({"input_ids": tokens, "output_attentions": True}, "no output_attentions"),
        ({"input_ids": tokens, "return_dict": False}, "no return_dict=False"),
        ({}, "takes input_ids"),
    ]
    for asked, said in refused:
        for part in (model, model.model):
            with pytest.raises(ValueError, match=said):
                part(**asked)
    nothing = dict.fromkeys(("inputs_embeds", "output_attentions", "output_hidden_states", "return_dict"))
    assert torch.equal(model(tokens, **nothing).logits, model(tokens).logits)
    with pytest.raises(ValueError, match="no output_hidden_states"):
        model.generate(tokens, max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True)
    with pytest.raises(ValueError, match=r"a static cache .* does not know"):
        model.generate(tokens, max_new_tokens=2, cache_implementation="static")
    model.config.output_hidden_states = True
    with pytest.raises(ValueError, match="no output_hidden_states"):
        model(tokens)


def test_the_command_says_how_to_load_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import_run(str(export(lively(NO_CLASS, tokenizer), tmp_path / "out", tokenizer, custom=True)), tmp_path / "run")
    command = ["export", str(tmp_path / "run"), "--to", str(tmp_path / "again")]
    with pytest.raises(RunError, match="--custom"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    said = CliRunner().invoke(cli, [*command, "--custom"], catch_exceptions=False).output
    assert f"AutoModelForCausalLM.from_pretrained('{tmp_path / 'again'}', trust_remote_code=True)" in said


def test_the_oldest_release_that_is_asked_for_is_one_that_is_tried() -> None:
    """By `make test-interop`."""
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (tried,) = re.findall(r"TRANSFORMERS = (\d+\.\d+)\.\*", (root / "Makefile").read_text(encoding="utf-8"))
    assert f"transformers>={tried}" in extras["transformers"]
    assert f"transformers>={tried}" in extras["dev"]


# Tokenizers.


@pytest.mark.parametrize("spec", ["char", "byte", "bpe:270"])
@pytest.mark.parametrize(("kind", "custom"), [*((kind, False) for kind in KINDS), ("llama", True)])
def test_the_tokenizer_comes_along(kind: str, custom: bool, spec: str, tmp_path: Path) -> None:
    hard = "  two  spaces,\n\n\ttabs \r\n . , ' n't I'm naïve ☕ 🙂 e\u0301 \u200d <|x|>  "
    ours = train_tokenizer(spec, [others.TEXT + hard], specials=("<|x|>",) if spec == "byte" else ())
    folder = export(lively(KINDS[kind][1], ours), tmp_path / "out", ours, custom)
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=custom)
    for text in (others.TEXT, hard.replace("<|x|>", "")):
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode(text).tolist()
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == theirs.pad_token_id == ours.end_of_text
    assert len(theirs) == ours.vocab_size
    assert theirs.model_max_length == 24


@pytest.mark.parametrize("custom", [False, True])
def test_what_is_not_told_how_much_to_write_fills_the_context(
    custom: bool, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """And not 20 tokens of it; whoever says how much is heard."""
    ours = lively(NO_CLASS | {"context_length": 48} if custom else MODERN | {"context_length": 48}, tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom)
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=custom)
    theirs.generation_config.eos_token_id = None
    spoken = AutoTokenizer.from_pretrained(folder, trust_remote_code=custom)
    prompt = spoken(others.TEXT[:12], return_tensors="pt")
    n_prompt = prompt["input_ids"].shape[1]
    asked = {"do_sample": False, "pad_token_id": 0}
    assert theirs.generate(**prompt, **asked).shape[1] == 48
    assert theirs.generate(**prompt, **asked, max_new_tokens=7).shape[1] == n_prompt + 7
    write = pipeline("text-generation", model=theirs, tokenizer=spoken)
    (written,) = write(others.TEXT[:12], return_tensors=True, **asked)
    assert len(written["generated_token_ids"]) == 48
    (written,) = write(others.TEXT[:12], return_tensors=True, max_new_tokens=7, **asked)
    assert len(written["generated_token_ids"]) == n_prompt + 7


# All that somebody does with it, in a process of its own.


@pytest.mark.parametrize("custom", [False, True])
def test_a_fresh_process_without_scratchlab_uses_an_export(custom: bool, tmp_path: Path, tokenizer: Tokenizer) -> None:
    ours = lively(NO_CLASS if custom else KINDS["starcoder2"][1], tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom)
    expect_of(ours, tokenizer, tmp_path / "expected.json", 18)
    asked = [
        sys.executable,
        str(LOADER),
        str(folder),
        str(tmp_path / "expected.json"),
        "--hide",
        *["--custom"] * custom,
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    ran = subprocess.run(asked, capture_output=True, text=True, env=os.environ | offline, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert not report.pop("scratchlab")
    assert report.pop("class") == ("ScratchlabForCausalLM" if custom else "Starcoder2ForCausalLM")
    report.pop("transformers")
    assert report == dict.fromkeys(report, "ok")


def test_fields_of_the_section_that_comes_along_are_ours(own_class: Any) -> None:
    section = own_class.config_class(scratchlab=dict(BASE), vocab_size=VOCAB).section
    assert {name: getattr(section, name) for name in GPTSection.model_fields} == GPTSection(**BASE).model_dump()
