"""`scratchlab evaluate http://...#run`: a served run is measured as the run itself is."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from in_process import NAME, model, running, tokenizer
from scratchlab.cli.main import cli
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.interop.subjects import open_subject
from tiny import random_stream


def test_a_served_run_is_measured_as_the_run_itself(tmp_path: Path) -> None:
    path, tokens = tmp_path / "tokenizer.json", tmp_path / "tokens.npy"
    path.write_text(tokenizer().to_json(), encoding="utf-8")
    text = random_stream(150, vocab_size=256)
    np.save(tokens, text.tokens.astype(np.uint16))
    rng = np.random.default_rng(0)
    asked = [Question(rng.integers(0, 256, 7), tuple(rng.integers(0, 256, size) for size in (1, 4, 9)))]
    with torch.no_grad():
        likeliest = model()(torch.from_numpy(asked[0].prefix)[None])[0][0, -1].argmax()
    asked.append(Question(asked[0].prefix, (np.array([int(likeliest)]),)))
    with running() as server:
        name = f"{server.url}#{NAME}"
        arguments = ["evaluate", name, "--tokenizer", str(path), "--corpus", str(tokens), "--made-by", str(path)]
        result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path), "--json"], catch_exceptions=False)
        subject = open_subject(name, tokenizer=str(path))
        answers = subject.scorer.answers(asked)
    (evaluated,) = json.loads(result.stdout)["models"]
    ours = evaluate_loss(lambda *batch: ModelScorer(model()).windows(*batch), text, subject.window)
    assert evaluated["loss"]["nats_per_token"] == pytest.approx(ours.nats_per_token, rel=1e-5)
    pairs = zip(itertools.chain(*ModelScorer(model()).answers(asked)), itertools.chain(*answers), strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.nats, theirs.nats, rtol=1e-4, atol=1e-4)
        assert mine.greedy == theirs.greedy
    assert answers[1][0].greedy
