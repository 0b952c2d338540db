"""Scores that need no judge: how near answers come to a reference, and how likely a model finds the reference.

Neither knows what is right. chrF (Popović 2015) counts the letter sequences that an answer shares with the reference:
an answer that is right in other words scores low, one that is wrong in the same words high. The log-likelihood says how
well a model expected the reference, not how well it writes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scratchlab.errors import UsageError
from scratchlab.evaluation.chrf import chrf_scores, corpus_chrf, require_chrf
from scratchlab.judging.answers import Answers, Likelihood
from scratchlab.judging.contest import REFERENCE, Contest
from scratchlab.judging.labels import Pairs, pairs_of
from scratchlab.judging.ranking import Rank, rank
from scratchlab.judging.scores import Estimate, Floats, estimate, estimate_ratio
from scratchlab.judging.verdicts import Figures, Versus, against_baseline

WHAT = {
    "chrf": "chrF counts letter sequences shared with the reference answer, 0 to 100: it rewards its words, not truth",
    "likelihood": "the loss says how unexpected the reference answer is to a model, and nothing of what it writes",
}


@dataclass(frozen=True, slots=True)
class Offline:
    """One model, by its references."""

    model: str
    chrf: Estimate
    """The mean over questions of each answer's chrF."""
    corpus_chrf: float
    """Of all answers as one text: what is mostly published; it weighs long answers more and has no interval."""
    empty: int
    """Answers with nothing in them: their chrF is 0."""
    cut: int
    """Answers that were cut off, at the most tokens a model may write or where its context ends."""
    nats_per_token: Estimate | None
    """The loss on the references; None where nobody can say, as of an endpoint."""
    nats_per_byte: Estimate | None


@dataclass(frozen=True, slots=True)
class OfflineScores:
    """All models by their references, and beside the baseline."""

    questions: int
    signature: str
    """How chrF was computed, as sacrebleu says it."""
    models: tuple[Offline, ...]
    chrf: tuple[Versus, ...]
    nats_per_byte: tuple[Versus, ...]
    ranking: tuple[Rank, ...]
    """Whose answers have the higher chrF; empty for a single model."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "what": WHAT}


def score_offline(answers: Sequence[Answers], baseline: int, smallest: float) -> OfflineScores:
    """Score answers by their references. UsageError without references; MissingExtraError without sacrebleu."""
    require_chrf()
    references = [(question.reference or "").strip() for question in answers[0].questions]
    known = [place for place, text in enumerate(references) if text]
    if len(known) < 2:
        raise UsageError(
            f"{answers[0].head['data']} has {len(known)} reference answers, and without them nothing can be scored "
            "offline: name a judge (--judge)."
        )
    told = [references[place] for place in known]
    texts = [[one.texts[place] for place in known] for one in answers]
    corpora = [corpus_chrf(own, told) for own in texts]
    sentences = np.stack([chrf_scores(own, told) for own in texts], axis=1)
    models = tuple(one.model for one in answers)
    nats, sizes = _losses(answers, known)
    return OfflineScores(
        questions=len(known),
        signature=corpora[0][1],
        models=tuple(_of_one(one, known, sentences[:, place], corpora[place][0]) for place, one in enumerate(answers)),
        chrf=tuple(against_baseline(Figures(models, sentences, np.ones(len(known)), True, smallest), baseline)),
        nats_per_byte=_by_likelihood(models, nats, sizes, baseline),
        ranking=tuple(rank(sentences[:, None], models)) if len(models) > 1 else (),
    )


def offline_pairs(answers: Sequence[Answers], least: float) -> Pairs:
    """Preference pairs by chrF: of each question that has a reference the best and the worst answer, if they differ by
    `least` points. Of one model alone the reference is preferred to its answer. MissingExtraError without sacrebleu."""
    require_chrf()
    questions = answers[0].questions
    references = tuple((question.reference or "").strip() for question in questions)
    names, texts = tuple(one.model for one in answers), tuple(one.texts for one in answers)
    ended = tuple(one.ended for one in answers)
    if len(answers) == 1:
        names, texts, ended = (REFERENCE, *names), (references, *texts), ((True,) * len(questions), *ended)
    known = [place for place, text in enumerate(references) if text]
    values_QE = np.full((len(questions), len(names)), np.nan)
    for column, own in enumerate(texts):
        values_QE[known, column] = chrf_scores([own[place] for place in known], [references[place] for place in known])
    return pairs_of(Contest(questions, names, texts, ended, len(names)), values_QE, least)


def _of_one(answers: Answers, known: Sequence[int], chrf_Q: Floats, corpus: float) -> Offline:
    likelihoods = [answers.answers[place].likelihood for place in known]
    return Offline(
        model=answers.model,
        chrf=estimate(chrf_Q),
        corpus_chrf=corpus,
        empty=sum(not answers.texts[place] for place in known),
        cut=sum(not answers.answers[place].written.ended for place in known),
        nats_per_token=_ratio(likelihoods, "tokens"),
        nats_per_byte=_ratio(likelihoods, "bytes"),
    )


def _ratio(likelihoods: Sequence[Likelihood | None], size: str) -> Estimate | None:
    there = [one for one in likelihoods if one is not None]
    if len(there) < 2:
        return None
    return estimate_ratio(np.array([one.nats for one in there]), np.array([getattr(one, size) for one in there], float))


def _losses(answers: Sequence[Answers], known: Sequence[int]) -> tuple[Floats, Floats]:
    """Nats of each model on each reference, (Q, E), and the bytes of these, (Q,); NaN where nobody can say."""
    nats, sizes = np.full((len(known), len(answers)), np.nan), np.full(len(known), np.nan)
    for row, place in enumerate(known):
        for column, one in enumerate(answers):
            if (found := one.answers[place].likelihood) is not None:
                nats[row, column], sizes[row] = found.nats, found.bytes
    return nats, sizes


def _by_likelihood(models: tuple[str, ...], nats: Floats, sizes: Floats, baseline: int) -> tuple[Versus, ...]:
    """Those of which something is known, beside the baseline, if that is among them."""
    there = [place for place in range(len(models)) if np.isfinite(nats[:, place]).sum() > 1]
    if baseline not in there or len(there) < 2:
        return ()
    figures = Figures(tuple(models[place] for place in there), nats[:, there], sizes, False, None)
    return tuple(against_baseline(figures, there.index(baseline)))
