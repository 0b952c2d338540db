"""Runs as models of lm-evaluation-harness, and the agreement of its scores with ours, item by item."""

import importlib.util
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import TEXT

from scratchlab.corpus.build import build_corpus
from scratchlab.errors import MissingExtraError, UsageError
from scratchlab.evaluation.items import Item, Wording
from scratchlab.evaluation.scorer import Question
from scratchlab.evaluation.subjects import run_subject
from scratchlab.evaluation.tasks import Task
from scratchlab.interop import harness
from scratchlab.interop.exports import write_run
from scratchlab.interop.harness import RunModel
from scratchlab.interop.subjects import open_subject
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

ROOT = Path(__file__).parents[2]
WORDS = TEXT.replace(",", "").replace(".", "").split()
needs_harness = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("lm_eval", "accelerate")),
    reason="lm-evaluation-harness is not installed: pip install 'lm-eval[hf]'",
)


@dataclass
class Request:
    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its export beside it. It has learned enough to write some words."""
    place = tmp_path_factory.mktemp("harness")
    (place / "text.txt").write_text(TEXT * 12, encoding="utf-8")
    build_corpus([str(place / "text.txt")], place / "corpus", "bpe:280")
    changes = ["training.steps=60", "training.precision=float32", "model.context_length=64"]
    changes += ["evaluation.sample_tokens=0", f"corpus={place / 'corpus'}"]
    train(load_recipe(ROOT / "recipes/tiny.toml", changes), place / "run")
    write_run(RunFolder.open(place / "run"), place / "export")
    return place / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> RunModel:
    return RunModel(run=str(run), device="cpu")


def pairs(model: RunModel, *texts: tuple[str, str]) -> list[tuple[Any, list[int], list[int]]]:
    return [((a, b), model.tok_encode(a), model.tok_encode(b)) for a, b in texts]


def test_each_pair_gets_its_own_answer_however_they_are_asked_together(run: Path, model: RunModel) -> None:
    texts = [
        ("every effort", " moves you"),
        ("no", " effort"),
        ("every effort", " ideal"),
        ("toward an", " ideal that"),
    ]
    found = model._loglikelihood_tokens(pairs(model, *texts), disable_tqdm=True)  # pyright: ignore[reportPrivateUsage]
    scorer = run_subject(run, device="cpu").scorer
    for (_, context, continuation), (log_probability, greedy) in zip(pairs(model, *texts), found, strict=True):
        ((alone,),) = scorer.answers([Question(np.array(context), (np.array(continuation),))])
        assert log_probability == pytest.approx(-alone.nats.sum(), rel=1e-5)
        assert greedy == alone.greedy


def test_what_is_too_long_loses_its_beginning_as_with_the_harness(model: RunModel) -> None:
    long, short = list(range(100)), list(range(36, 100))  # 64 tokens are seen, and one more is predicted
    ask = model._loglikelihood_tokens  # pyright: ignore[reportPrivateUsage]
    assert ask([(None, long, [5])], disable_tqdm=True) == ask([(None, short, [5])], disable_tqdm=True)
    assert ask([(None, long, [5])], disable_tqdm=True) != ask([(None, short[1:], [5])], disable_tqdm=True)
    with pytest.raises(UsageError, match="asks for 65 tokens after 1"):
        ask([(None, [1], list(range(65)))])
    with pytest.raises(UsageError, match="asks for 0 tokens after 1"):
        ask([(None, [1], [])])


def test_it_writes_up_to_the_stop_text(model: RunModel) -> None:
    def written(**wishes: Any) -> str:
        return model.generate_until([Request(("every effort", {"max_gen_toks": 30, **wishes}))], disable_tqdm=True)[0]

    whole = written()
    stop = whole[len(whole) // 2 :][:4]
    assert stop
    assert written(until=[stop]) == written(until=stop) == whole[: whole.index(stop)]
    assert whole.startswith(written(max_gen_toks=5))
    assert len(written(max_gen_toks=5)) < len(whole)


def test_without_the_harness_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[harness\]"):
        harness.register.__wrapped__()


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the benchmark makes of items on both sides."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks/harness_agreement.py"))


def tasks(rng: np.random.Generator, count: int) -> dict[str, Task]:
    """Items of the three kinds, of words of the text."""

    def words(most: int) -> str:
        start = int(rng.integers(0, len(WORDS) - most))
        return " ".join(WORDS[start : start + int(rng.integers(1, most + 1))])

    def item(kind: str, number: int) -> Item:
        many, one = tuple(words(4) for _ in range(4)), words(6)
        match kind:
            case "choices":
                return Item(number, (one,) * 4, many, number % 4)
            case "schema":
                return Item(number, many[:2], (one,) * 2, number % 2)
            case _:
                start = number * 3 % 60
                rest = 1 if number % 3 else 2
                context, following = WORDS[start : start + 6], WORDS[start + 6 : start + 6 + rest]
                return Item(number, (" ".join(context),), (" ".join(following),), 0)

    kinds = ("choices", "schema", "completion")
    return {kind: Task(kind, tuple(item(kind, n) for n in range(1, count + 1)), Wording()) for kind in kinds}


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_choices_are_those_of_the_harness(run: Path, tmp_path: Path, sides: dict[str, Any]) -> None:
    """Of its own class with the export, and of its evaluator with our adapter."""
    ours = {"run": run_subject(run, device="cpu"), "export": open_subject(str(run.parent / "export"), device="cpu")}
    theirs = {
        "its own class": sides["own_class"](run.parent / "export", 8),
        "our adapter": harness.register()(run=str(run), device="cpu"),
    }
    decided: set[Any] = set()
    for kind, task in tasks(np.random.default_rng(3), 36).items():
        mine = {name: sides["our_records"](subject, task) for name, subject in ours.items()}
        for name, lm in theirs.items():
            found, _ = sides["harness_records"](lm, task, tmp_path / name)
            for records in mine.values():
                assert sides["differing"](records, found) == [], (kind, name)
                assert max(map(sides["difference"], records, found)) < 1e-3
        decided |= {(kind, sides["choices"](record)) for record in mine["run"]}
    assert len([one for one in decided if one[0] == "completion"]) == 2  # some are met, and some are not


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_long_texts_are_scored_as_by_the_harness(run: Path, sides: dict[str, Any]) -> None:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    texts = [TEXT, TEXT[:30], "every"]
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    theirs = sides["own_class"](run.parent / "export", 8).loglikelihood_rolling(requests, disable_tqdm=True)
    ours = harness.register()(run=str(run), device="cpu").loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours == pytest.approx(theirs, rel=1e-5)
