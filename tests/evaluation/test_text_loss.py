"""The loss on a text by documents: what is kept, what an interruption costs, and whether the error is right."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from scratchlab.architecture import RNNSection
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation import batches
from scratchlab.evaluation.documents import evaluate_text, read_loss
from scratchlab.evaluation.loss import LossResult, Units, evaluate_loss
from scratchlab.evaluation.results import read_log
from scratchlab.evaluation.scorer import Answer, Floats, Ids, ModelScorer, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.texts import Text
from scratchlab.model.build import build_model
from tiny import VOCAB, Stream, tiny_gpt

CONTEXT = 6
BYTES = train_tokenizer("byte", [])
LENGTHS = (9, 30, 4, 1, 55, 6, 6, 20, 41, 3, 17, 26)


def text_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Text:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, sum(lengths))
    starts = np.cumsum([0, *lengths])
    units = Units("documents", starts, 2 * np.array(lengths))
    return Text("made up", f"text {seed}", BYTES, Stream(tokens, lengths, tuple(2 * np.array(lengths))), starts, units)


def stream_of(text: Text) -> Stream:
    assert isinstance(text.tokens, Stream)
    return text.tokens


class Counting:
    """A scorer that knows the loss of each token, counts what it is asked, and stops when it is told to."""

    def __init__(self, nats: Floats | None = None, calls: int = 10**9) -> None:
        self.nats = np.linspace(0.1, 3, 512, dtype=np.float32) if nats is None else nats
        self.calls_left, self.scored = calls, 0

    def windows(self, tokens_BT: Ids, targets_BT: Ids) -> Floats:
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.scored += tokens_BT.size
        return self.nats[targets_BT]

    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        raise AssertionError(questions)


def subject_of(scorer: Counting | ModelScorer, window: int = CONTEXT, remembers: bool = False) -> Subject:
    return Subject("runs/a model", "weights", scorer, BYTES, 0, window, window, remembers)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batches.TOKENS_AT_ONCE, "other", 4 * CONTEXT)


def only_log(folder: Path) -> Path:
    (found,) = (folder / "runs-a-model").iterdir()
    return found


def test_a_line_for_each_document_adds_up_to_the_figures_of_training(tmp_path: Path) -> None:
    text, model = text_of(), tiny_gpt(spread=8.0)
    result = evaluate_text(subject_of(ModelScorer(model)), text, tmp_path)
    stream = stream_of(text)
    assert result == evaluate_loss(ModelScorer(model).windows, stream, CONTEXT)

    head, *lines = map(json.loads, only_log(tmp_path).read_text().splitlines())
    assert (head["kind"], head["task"], head["task_sha256"]) == ("loss", "made up", "text 0")
    assert (head["model"], head["model_sha256"], head["items"]) == ("runs/a model", "weights", 12)
    assert [line["item"] for line in lines] == list(range(1, 13))
    assert [line["tokens"] for line in lines] == [LENGTHS[0] - 1, *LENGTHS[1:]]
    assert [line["bytes"] for line in lines] == [2 * length for length in LENGTHS]
    nats: list[float] = []
    for target in range(1, len(stream)):
        past = stream.tokens[(target - 1) // CONTEXT * CONTEXT : target]
        logits = model(torch.from_numpy(past)[None])[0][0, -1].detach().double()
        nats.append(-float(logits.log_softmax(-1)[stream.tokens[target]]))
    edges = np.cumsum(LENGTHS) - 1
    sums = [sum(nats[a:b]) for a, b in zip([0, *edges[:-1]], edges, strict=True)]
    assert [line["nats"] for line in lines] == pytest.approx(sums, rel=1e-5)


def test_perplexity_is_that_of_a_token(tmp_path: Path) -> None:
    result = evaluate_text(subject_of(Counting()), text_of(), tmp_path)
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))
    assert result.nats_per_token_error is not None
    assert result.perplexity_error == pytest.approx(result.perplexity * result.nats_per_token_error)


def test_what_is_done_is_not_scored_again(tmp_path: Path) -> None:
    first, again = Counting(), Counting()
    result = evaluate_text(subject_of(first), text_of(), tmp_path)
    assert evaluate_text(subject_of(again), text_of(), tmp_path) == result
    assert again.scored == 0
    assert read_loss(only_log(tmp_path))[1] == result
    evaluate_text(subject_of(again), text_of(seed=1), tmp_path)
    evaluate_text(replace(subject_of(again), identity="others"), text_of(), tmp_path)
    assert again.scored == 2 * first.scored, "another text and another model are other things"


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_an_interruption_at_any_moment_changes_nothing_and_costs_what_was_under_way(tmp_path: Path, torn: int) -> None:
    whole = Counting()
    expected = evaluate_text(subject_of(whole), text_of(), tmp_path / "whole")
    log = only_log(tmp_path / "whole")
    n_parts = math.ceil((sum(LENGTHS) - 1) / (4 * CONTEXT))
    for calls in range(n_parts):
        folder, stopped, resumed = tmp_path / str(calls), Counting(calls=calls), Counting()
        with pytest.raises(KeyboardInterrupt):
            evaluate_text(subject_of(stopped), text_of(), folder)
        part = only_log(folder)
        os.truncate(part, part.stat().st_size - torn)
        told: list[tuple[int, int]] = []
        result = evaluate_text(
            subject_of(resumed), text_of(), folder, progress=lambda done, total, told=told: told.append((done, total))
        )
        assert result == expected
        assert only_log(folder).read_text() == log.read_text()
        done = max(0, calls - (torn > 1)) * 4 * CONTEXT  # the end of a line alone is no loss
        assert resumed.scored == whole.scored - done
        assert (told[0], told[-1]) == ((done, sum(LENGTHS) - 1), (sum(LENGTHS) - 1, sum(LENGTHS) - 1))


def test_a_kill_between_the_log_and_the_end_leaves_nothing_to_score(tmp_path: Path) -> None:
    expected = evaluate_text(subject_of(Counting()), text_of(), tmp_path)
    stale = only_log(tmp_path).with_suffix(".part-1")
    stale.write_text("half a li")
    again = Counting()
    assert evaluate_text(subject_of(again), text_of(), tmp_path) == expected
    assert again.scored == 0
    assert not stale.exists()


def test_what_other_processes_have_kept_is_taken_over_unless_it_is_damaged(tmp_path: Path) -> None:
    whole = Counting()
    expected = evaluate_text(subject_of(whole), text_of(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate_text(subject_of(Counting(calls=3)), text_of(), tmp_path)
    part = only_log(tmp_path)
    head, first, second, third = part.read_text().splitlines(keepends=True)
    part.write_text(head + second)
    part.with_suffix(".part-1").write_text(head + first)
    part.with_suffix(".part-2").write_text(head + third.replace('"nats"', "nats"))
    resumed = Counting()
    assert evaluate_text(subject_of(resumed), text_of(), tmp_path) == expected
    assert resumed.scored == whole.scored - 2 * 4 * CONTEXT


def test_a_log_that_was_cut_off_is_no_result(tmp_path: Path) -> None:
    evaluate_text(subject_of(Counting()), text_of(), tmp_path)
    log = only_log(tmp_path)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ScratchlabError, match=r"cut off. Delete it"):
        read_loss(log)


# Windows that overlap.


@pytest.mark.parametrize("stride", [1, 2, 4, 5, 6])
def test_with_a_stride_each_target_has_its_past(tmp_path: Path, stride: int) -> None:
    text, model = text_of(), tiny_gpt(spread=8.0)
    result = evaluate_text(subject_of(ModelScorer(model)), text, tmp_path, stride=stride)
    tokens, total = text.tokens.read(0, len(text.tokens)), 0.0
    for target in range(1, len(tokens)):
        window = max(0, math.ceil((target - CONTEXT) / stride))  # the first that reaches it
        logits = model(torch.from_numpy(tokens[window * stride : target])[None])[0][0, -1].detach().double()
        total -= float(logits.log_softmax(-1)[tokens[target]])
        assert target - window * stride >= min(target, CONTEXT - stride + 1)
    assert result.nats_per_token == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    assert read_log(only_log(tmp_path))[0]["stride"] == stride


def test_a_stride_costs_window_over_stride_as_much(tmp_path: Path) -> None:
    text, plain, half = text_of((90,) * 8), Counting(), Counting()
    evaluate_text(subject_of(plain), text, tmp_path)
    evaluate_text(subject_of(half), text, tmp_path, stride=3)
    assert half.scored == pytest.approx(2 * plain.scored, rel=0.05)


def test_a_stride_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for stride in (0, CONTEXT + 1):
        with pytest.raises(UsageError, match=rf"--stride {stride}: expected 1 to {CONTEXT}"):
            evaluate_text(subject_of(Counting()), text_of(), tmp_path, stride=stride)
    with pytest.raises(UsageError, match="remembers"):
        evaluate_text(subject_of(Counting(), remembers=True), text_of(), tmp_path, stride=2)


# Other tokens, and models that remember.


def test_tokenizers_are_compared_on_the_same_bytes(tmp_path: Path) -> None:
    """Whoever gives every character the same chance pays the same for the text, but for the ends of documents."""
    words = ["the fog, " * count for count in range(3, 15)]
    letters = train_tokenizer("char", words)
    parts = [[*BYTES.encode(text).tolist(), BYTES.end_of_text] for text in words]
    stream, lengths = np.array([token for part in parts for token in part]), np.cumsum([0, *map(len, parts)])
    units = Units("documents", lengths, np.array([len(text) for text in words]))
    text = Text("fog", "fog", BYTES, Stream(stream), lengths, units)
    results: list[LossResult] = []
    for encoder in (BYTES, letters):
        subject = subject_of(Counting(np.ones(512, np.float32)))
        results.append(evaluate_text(replace(subject, encoder=encoder, identity=encoder.meaning), text, tmp_path))
    assert [result.reencoded for result in results] == [False, True]
    bits = (len(stream) - 1) / math.log(2) / units.n_bytes.sum()
    assert results[0].bits_per_byte == results[1].bits_per_byte == pytest.approx(bits)
    logs = [read_log(path)[0] for path in (tmp_path / "runs-a-model").iterdir()]
    assert len({head["task_sha256"] for head in logs}) == 1


def test_a_model_that_remembers_begins_each_text_with_nothing_remembered(tmp_path: Path) -> None:
    section = RNNSection(architecture="rnn", d_model=16, context_length=CONTEXT)
    scorer = ModelScorer(build_model(section, VOCAB, seed=3).eval())
    text = text_of()
    stream = stream_of(text)
    expected = evaluate_loss(scorer.windows, stream, CONTEXT, remembers=True)
    for folder in ("one", "two"):
        assert evaluate_text(subject_of(scorer, remembers=True), text, tmp_path / folder) == expected
    assert evaluate_text(subject_of(scorer, remembers=True), text_of((9,) * 8), tmp_path).n_units == 8
    scorer.answers([Question(np.array([1]), (np.array([2]),))])


# Several processes.

OTHER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[3])
import test_text_loss
print(json.dumps(test_text_loss.figures_together(1, sys.argv[1], sys.argv[2])))
"""


def figures_together(rank: int, store: str, folder: str) -> list[dict[str, float]]:
    """The figures of one of two processes."""
    torch.set_num_threads(1)
    batches.TOKENS_AT_ONCE["other"] = 4 * CONTEXT
    minute = timedelta(minutes=1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", timeout=minute, rank=rank, world_size=2)
    try:
        return figures(Path(folder))
    finally:
        distributed.destroy_process_group()


def figures(folder: Path) -> list[dict[str, float]]:
    """The numbers of both kinds of model, with and without a log; and how much was scored."""
    rnn = build_model(RNNSection(architecture="rnn", d_model=16, context_length=CONTEXT), VOCAB, seed=3).eval()
    text, counting = text_of(), Counting()
    results = [
        evaluate_loss(ModelScorer(tiny_gpt(spread=8.0)).windows, stream_of(text), CONTEXT),
        evaluate_loss(ModelScorer(rnn).windows, stream_of(text), CONTEXT, remembers=True),
        evaluate_text(subject_of(ModelScorer(tiny_gpt(spread=8.0))), text, folder / "a"),
        evaluate_text(subject_of(ModelScorer(rnn), remembers=True), text, folder / "b"),
        evaluate_text(subject_of(counting), text, folder / "c"),
        evaluate_text(subject_of(counting), text, folder / "c"),
    ]
    found = [{k: v for k, v in result.to_json().items() if isinstance(v, float)} for result in results]
    return [*found, {"scored": counting.scored}]


def test_the_figures_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    here = Path(__file__)
    path = json.dumps([str(here.parent), str(here.parents[1]), *sys.path])
    store, folder = str(tmp_path / "store"), str(tmp_path / "together")
    with subprocess.Popen([sys.executable, "-c", OTHER, store, folder, path], stdout=subprocess.PIPE) as other:
        try:
            first = figures_together(0, store, folder)
            second = json.loads(other.communicate(timeout=60)[0])
        finally:
            other.kill()
    one = figures(tmp_path / "alone")
    assert first[:-1] == second[:-1]
    for mine, theirs in zip(one[:-1], first[:-1], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)
    assert first[-1]["scored"] + second[-1]["scored"] == one[-1]["scored"], "each window by one of them"
    assert abs(first[-1]["scored"] - second[-1]["scored"]) <= 4 * CONTEXT
    assert [path.suffix for path in (tmp_path / "together" / "c" / "runs-a-model").iterdir()] == [".jsonl"]


# The error.


def test_the_printed_error_is_the_spread_over_random_halves(tmp_path: Path) -> None:
    """Documents of very unequal length, each easy or hard as a whole.

    A half of N documents, drawn without replacement, has the variance of N/2 independent ones times 1 - 1/2, which is
    that of N independent ones: the halves spread as widely as the whole set's printed error says.
    """
    rng = np.random.default_rng(5)
    lengths = tuple(rng.geometric(1 / 60, 400).tolist())
    text = text_of(lengths)
    level = np.repeat(rng.gamma(4, 0.5, 400), lengths) * rng.gamma(2, 0.5, sum(lengths))
    stream = Stream(np.arange(sum(lengths)), lengths)
    scorer = Counting(level.astype(np.float32))
    result = evaluate_text(subject_of(scorer, window=1000), replace(text, tokens=stream), tmp_path)
    _, records = read_log(only_log(tmp_path))
    nats, tokens, sizes = (np.array([record[name] for record in records]) for name in ("nats", "tokens", "bytes"))
    halves = [rng.permutation(400)[:200] for _ in range(200)]
    by_token = np.std([nats[half].sum() / tokens[half].sum() for half in halves], ddof=1)
    by_byte = np.std([nats[half].sum() / math.log(2) / sizes[half].sum() for half in halves], ddof=1)
    assert result.nats_per_token_error == pytest.approx(by_token, rel=0.1)
    assert result.bits_per_byte_error == pytest.approx(by_byte, rel=0.1)
    naive = level.std() / math.sqrt(len(level))
    assert by_token > 2 * naive, "tokens of a document are alike: taken for independent, they would be far too sure"
