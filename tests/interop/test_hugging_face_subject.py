"""Any causal model of Hugging Face as something to evaluate: what it finds is what the model computes, plainly read."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import others
import pytest
import torch
from others import SYMBOLS, TEXT
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from hub_server import Hub, Repository, point_client_at, serve
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import DeviceError, MissingExtraError, ScratchlabError, UsageError
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import Question
from scratchlab.evaluation.subjects import run_subject
from scratchlab.interop import hugging_face_scorer
from scratchlab.interop.exports import write_run
from scratchlab.interop.hugging_face_scorer import CausalLMScorer
from scratchlab.interop.subjects import open_subject
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

ROOT = Path(__file__).parents[2]
CONTEXT = 24
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"vocab_size": 50, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 8}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}

# What is read, and whether only the places asked about go through the head, and whether what is shared is read once.
MODELS: dict[str, tuple[Any, bool, bool]] = {
    "gpt2": (GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, vocab_size=50), True, True),
    "gpt-neox": (GPTNeoXConfig(**SMALL), True, True),
    "llama": (LlamaConfig(**GROUPED), True, True),
    "qwen": (Qwen2Config(**GROUPED), True, True),
    "logits-scaled-after-the-head": (CohereConfig(**GROUPED), True, True),
    "logits-capped-and-windows": (Gemma2Config(**GROUPED, sliding_window=6, final_logit_softcapping=2.0), True, False),
    "window": (MistralConfig(**GROUPED, sliding_window=12), True, False),
    "turned-by-length": (LlamaConfig(**GROUPED, rope_parameters=DYNAMIC), True, False),
    "recurrent": (MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=50, state_size=4), True, False),
}


def make(config: Any) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def questions(rng: np.random.Generator, count: int, shared: int) -> list[Question]:
    """Of all lengths that fit, with what they begin with in common."""
    common, made = rng.integers(0, 50, shared), list[Question]()
    for _ in range(count):
        longest = int(rng.integers(1, CONTEXT // 2))
        prefix = np.append(common, rng.integers(0, 50, rng.integers(1, CONTEXT - longest - shared + 2)))
        sizes = rng.integers(1, longest + 1, rng.integers(1, 5))
        made.append(Question(prefix, tuple(rng.integers(0, 50, size) for size in sizes)))
    return made


@torch.no_grad()
def one_by_one(model: Any, question: Question) -> list[tuple[np.ndarray, bool]]:
    found: list[tuple[np.ndarray, bool]] = []
    for choice in question.continuations:
        whole = torch.from_numpy(np.append(question.prefix, choice))
        logits = model(whole[None, :-1]).logits[0, len(question.prefix) - 1 :].double()
        nats = -logits.log_softmax(-1)[torch.arange(len(choice)), torch.from_numpy(choice)]
        found.append((nats.numpy(), bool((logits.argmax(-1).numpy() == choice).all())))
    return found


@pytest.mark.filterwarnings("ignore:.*fast path is not available")
@pytest.mark.parametrize("kind", MODELS)
def test_each_answer_is_that_of_the_question_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, chooses, shares = MODELS[kind]
    model = make(config)
    rng = np.random.default_rng(4)
    for shared, at_once in ((0, 2**25), (7, 2**25), (7, 50 * 30)):
        monkeypatch.setitem(hugging_face_scorer.LOGITS_AT_ONCE, "cpu", at_once)
        scorer = CausalLMScorer(model, kind, CONTEXT)
        assert (scorer._reader.chooses, scorer._shares) == (chooses, shares)  # pyright: ignore[reportPrivateUsage]
        asked = questions(rng, 8, shared)
        for question, found in zip(asked, scorer.answers(asked), strict=True):
            for answer, (nats, greedy) in zip(found, one_by_one(model, question), strict=True):
                np.testing.assert_allclose(answer.nats, nats, rtol=1e-4, atol=1e-4)
                assert answer.greedy == greedy


def test_a_common_beginning_is_read_once_and_only_what_is_asked_goes_through_the_head() -> None:
    model, sizes = make(MODELS["gpt2"][0]), dict[str, list[int]](read=[], head=[])
    scorer = CausalLMScorer(model, "gpt2", CONTEXT)
    model.transformer.wte.register_forward_hook(lambda *call: sizes["read"].append(call[1][0].numel()))
    model.lm_head.register_forward_hook(lambda *call: sizes["head"].append(call[2].shape[:-1].numel()))
    rng = np.random.default_rng(0)
    common = rng.integers(0, 50, 12)
    asked = [
        Question(np.append(common, [place, 3]), tuple(rng.integers(0, 50, size) for size in (1, 3, 4)))
        for place in range(5)
    ]
    scorer.answers(asked)
    assert sizes["read"] == [12, 5 * 2, 10 * 3]  # of candidates all but the last token, and none of those of one token
    assert sizes["head"] == [0, 5, 5 * (2 + 3)]


def test_a_model_that_the_trial_finds_otherwise_is_read_plainly() -> None:
    """One whose head looks at where a token stands."""
    model = make(MODELS["gpt2"][0])
    whole = model.lm_head.forward
    model.lm_head.forward = lambda x: whole(x) * torch.arange(1, x.shape[1] + 1)[:, None] / 10
    scorer = CausalLMScorer(model, "gpt2", CONTEXT)
    assert (scorer._reader.chooses, scorer._shares) == (False, False)  # pyright: ignore[reportPrivateUsage]
    asked = questions(np.random.default_rng(2), 6, 5)
    for question, found in zip(asked, scorer.answers(asked), strict=True):
        for answer, (nats, _) in zip(found, one_by_one(model, question), strict=True):
            np.testing.assert_allclose(answer.nats, nats, rtol=1e-4, atol=1e-4)


# Runs and their exports.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a GPT-2 with a corpus beside it, and its export."""
    place = tmp_path_factory.mktemp("run")
    (place / "text.txt").write_text("\n\n".join(f"{n} {TEXT}" for n in range(12)), encoding="utf-8")
    build_corpus([str(place / "text.txt")], place / "corpus", "bpe:280")
    changes = [
        "training.steps=8",
        "training.warmup_steps=2",
        "training.precision=float32",
        "evaluation.sample_tokens=0",
    ]
    train(load_recipe(ROOT / "recipes/tiny.toml", [*changes, f"corpus={place / 'corpus'}"]), place / "run")
    write_run(RunFolder.open(place / "run"), place / "export")
    return place


def test_a_run_and_its_export_have_the_same_loss(run: Path) -> None:
    ours, theirs = run_subject(run / "run", device="cpu"), open_subject(str(run / "export"), device="cpu")
    assert (theirs.window, theirs.start, theirs.context_length) == (ours.window, ours.start, ours.context_length)
    text = open_corpus(run / "corpus").split("test")
    losses = [evaluate_loss(subject.scorer.windows, text, subject.window) for subject in (ours, theirs)]
    assert abs(losses[0].nats_per_token - losses[1].nats_per_token) < 1e-5
    assert abs(losses[0].bits_per_byte - losses[1].bits_per_byte) < 1e-5
    assert losses[0].n_tokens == losses[1].n_tokens
    prefix = np.asarray(ours.encoder.encode("every effort moves"), np.int64)
    asked = [Question(prefix, (np.array([5]), np.array([7, 8, 9])))]
    (mine,), (others_,) = (subject.scorer.answers(asked) for subject in (ours, theirs))
    for a, b in zip(mine, others_, strict=True):
        np.testing.assert_allclose(a.nats, b.nats, rtol=1e-5, atol=1e-5)


def test_windows_in_pieces_are_those_together(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tokens, targets = (rng.integers(0, 280, (5, 9)) for _ in range(2))
    together = open_subject(str(run / "export"), device="cpu").scorer.windows(tokens, targets)
    monkeypatch.setitem(hugging_face_scorer.LOGITS_AT_ONCE, "cpu", 280 * 20)
    in_pieces = open_subject(str(run / "export"), device="cpu").scorer.windows(tokens, targets)
    np.testing.assert_allclose(in_pieces, together, rtol=1e-5)
    assert together.shape == (5, 9)


def test_precision_and_weights_tell_results_apart(run: Path, tmp_path: Path) -> None:
    from scratchlab.interop.hugging_face_subject import hugging_face_subject

    name = str(run / "export")
    first, again = (open_subject(name, device="cpu").identity for _ in range(2))
    coarse = hugging_face_subject(name, device="cpu", precision="bf16")
    make_gpt2(tmp_path / "other")
    assert first == again
    assert len({first, coarse.identity, open_subject(str(tmp_path / "other"), device="cpu").identity}) == 3
    (answers,) = coarse.scorer.answers([Question(np.array([1, 2]), (np.array([3]),))])
    assert answers[0].nats.dtype == np.float32
    with pytest.raises(DeviceError, match="precision 'fp16': cpu cannot"):
        hugging_face_subject(name, device="cpu", precision="fp16")


# What a model may lack.


def make_gpt2(folder: Path, tokenizer: bool = True) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": SYMBOLS}
    ends = {"bos_token_id": SYMBOLS - 1, "eos_token_id": SYMBOLS - 1}
    GPT2LMHeadModel(GPT2Config(**sizes, **ends)).save_pretrained(folder)
    if tokenizer:
        (folder / "tokenizer.json").write_text(others.make_tokenizer().to_json(), encoding="utf-8")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_model_without_a_tokenizer_takes_one_that_is_named(tmp_path: Path) -> None:
    make_gpt2(tmp_path / "model", tokenizer=False)
    with pytest.raises(ScratchlabError, match=r"brings no tokenizer\. Say which with --tokenizer"):
        open_subject(str(tmp_path / "model"))
    path = tmp_path / "tokenizer.json"
    path.write_text(others.make_tokenizer().to_json(), encoding="utf-8")
    subject = open_subject(str(tmp_path / "model"), tokenizer=str(path))
    assert subject.encoder.vocab_size == SYMBOLS


def test_an_empty_text_begins_as_the_model_says(tmp_path: Path) -> None:
    make_gpt2(tmp_path / "model")
    assert open_subject(str(tmp_path / "model")).start == SYMBOLS - 1
    for token, start in ((5, 5), (None, SYMBOLS - 1)):
        change_config(tmp_path / "model", bos_token_id=token)
        assert open_subject(str(tmp_path / "model")).start == start


def test_what_does_not_fit_or_is_damaged_is_said_plainly(tmp_path: Path) -> None:
    make_gpt2(tmp_path / "good")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vocab_size": 200}, "wte.weight: .*in another shape"),
        ({"n_layer": 2}, "h.1.attn.c_attn.bias"),
        ({"model_type": "unheard-of"}, "could not be loaded: .*unheard-of"),
        ({"model_type": None}, "does not say what kind of model"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}, "not done here"),
    ]
    for number, (changes, message) in enumerate(cases):
        folder = shutil.copytree(tmp_path / "good", tmp_path / str(number))
        change_config(folder, **changes)
        (folder / "m.py").write_text("raise SystemExit('executed')", encoding="utf-8")
        with pytest.raises(ScratchlabError, match=message):
            open_subject(str(folder))
    (tmp_path / "good/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ScratchlabError, match="good could not be loaded"):
        open_subject(str(tmp_path / "good"))


def test_a_pickle_that_would_be_executed_is_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('executed')",)

    make_gpt2(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Evil()}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(ScratchlabError, match="could not be loaded"):
        open_subject(str(tmp_path / "model"))


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    make_gpt2(tmp_path / "model")
    scorer = open_subject(str(tmp_path / "model")).scorer
    with pytest.raises(UsageError, match="sees 8 tokens at most; it was given 9"):
        scorer.answers([Question(np.arange(9), (np.array([1]),))])
    with pytest.raises(UsageError, match="sees 8 tokens at most; it was given 9"):
        scorer.windows(np.zeros((1, 9), int), np.zeros((1, 9), int))


def test_what_is_no_model_is_told_what_could_have_been_one(tmp_path: Path, run: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, message in {
        str(tmp_path / "folder"): "is there, but no model. A model is a run folder, a folder with",
        str(tmp_path / "nowhere"): "is neither there nor a name. A model is a run folder, a folder with",
    }.items():
        with pytest.raises(ScratchlabError, match=message):
            open_subject(name)
    with pytest.raises(UsageError, match="is a run, which has its own tokenizer"):
        open_subject(str(run / "run"), tokenizer="gpt2")
    with pytest.raises(UsageError, match="is no run of ours"):
        open_subject(str(run / "export"), at="best")


def test_without_transformers_the_line_that_installs_it_is_given(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else sys)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[transformers\]"):
        open_subject(str(run / "export"))


# On the Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        make_gpt2(tmp_path / "served")
        files = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
        hub.repositories["models/someone/gpt2"] = Repository()
        hub.repositories["models/someone/gpt2"].commit(files | {"modeling.py": b"raise SystemExit", "x.msgpack": b"-"})
        point_client_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def test_a_model_comes_by_its_name(hub: Hub, tmp_path: Path) -> None:
    there, here = (open_subject(name, device="cpu") for name in ("someone/gpt2", str(tmp_path / "served")))
    assert {line.rpartition("/")[2] for line in hub.answered("", "/resolve/")} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert there.identity == here.identity
    asked = [Question(np.array([1, 2, 3]), (np.array([4, 5]), np.array([6])))]
    for a, b in zip(there.scorer.answers(asked)[0], here.scorer.answers(asked)[0], strict=True):
        np.testing.assert_array_equal(a.nats, b.nats)
    with pytest.raises(ScratchlabError, match="there is no model of that name"):
        open_subject("someone/else")
