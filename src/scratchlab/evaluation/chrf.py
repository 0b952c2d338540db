"""chrF: how much of a reference answer's letters an answer has. What can be said of answers without a judge."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab.extras import require

Floats = npt.NDArray[np.float64]


def require_chrf() -> None:
    """MissingExtraError, with the line that installs it, unless sacrebleu is there."""
    require("Scoring answers by chrF", "judge", "sacrebleu")


def chrf_scores(answers: Sequence[str], references: Sequence[str]) -> Floats:
    """The chrF of each answer beside its reference, 0 to 100 (Popović 2015), as sacrebleu counts it: n-grams of up to 6
    characters, white space left out, recall weighing twice as much as precision.
    """
    measure, pairs = _measure(), zip(answers, references, strict=True)
    return np.array([measure.sentence_score(answer, [reference]).score for answer, reference in pairs], np.float64)


def corpus_chrf(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """The same of all answers as one text, which weighs long ones more; and how it was computed, as sacrebleu says it
    to be quoted."""
    measure = _measure()
    return float(measure.corpus_score(answers, [references]).score), str(measure.get_signature())


def _measure() -> Any:
    require_chrf()
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
