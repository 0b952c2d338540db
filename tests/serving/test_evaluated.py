"""`scratchlab evaluate http://...#run`: a served run is measured as the run itself is."""

from pathlib import Path

import numpy as np
import pytest
from in_process import NAME, model, running, tokenizer

from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.interop.subjects import open_subject
from tiny import random_stream


def test_a_served_run_is_measured_as_the_run_itself(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer().to_json(), encoding="utf-8")
    text = random_stream(150, vocab_size=tokenizer().vocab_size)
    rng = np.random.default_rng(0)
    asked = [Question(rng.integers(0, 256, 7), tuple(rng.integers(0, 256, size) for size in (1, 4, 9)))]
    with running() as server:
        subject = open_subject(f"{server.url}#{NAME}", tokenizer=str(path))
        theirs = evaluate_loss(subject.scorer.windows, text, subject.window)
        answers = subject.scorer.answers(asked)
    ours = evaluate_loss(lambda *batch: ModelScorer(model()).windows(*batch), text, subject.window)
    assert theirs.nats_per_token == pytest.approx(ours.nats_per_token, rel=1e-5)
    for mine, other in zip(ModelScorer(model()).answers(asked)[0], answers[0], strict=True):
        np.testing.assert_allclose(mine.nats, other.nats, rtol=1e-4, atol=1e-4)
        assert mine.greedy == other.greedy
