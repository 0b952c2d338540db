"""What a judge replied, as scores: all of them, in range, and nothing else; or what was wrong with the reply."""

import json
import re
from collections.abc import Sequence
from typing import Any

from scratchlab.judging.prompts import BEST

THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""What some models write before their reply."""
FENCE = re.compile(r"\A\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
"""Marks that many models put around JSON; the whole reply must be inside."""


def parse_scores(reply: str, labels: Sequence[str]) -> dict[str, float]:
    """The score of each label. ValueError, saying what is wrong, for anything that is not exactly that."""
    scores = _object(_bare(reply))
    problems = [
        *(f"it has no score for {label}" for label in labels if label not in scores),
        *(f"there is no answer {label!r:.40}" for label in scores if label not in labels),
        *(
            f"the score of {label} is {json.dumps(scores[label])[:40]}, not a number from 0 to {BEST}"
            for label in labels
            if label in scores and not _is_score(scores[label])
        ),
    ]
    if problems:
        raise ValueError("; ".join(problems[:5]))
    return {label: float(scores[label]) for label in labels}


def _bare(reply: str) -> str:
    """A reply without a model's thoughts before it, and without a code fence around it."""
    rest = THOUGHTS.sub("", reply)
    fenced = FENCE.match(rest)
    return (fenced[1] if fenced else rest).strip()


def _object(text: str) -> dict[str, Any]:
    if not text:
        raise ValueError("it is empty")
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is not JSON") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON alone ({error.msg} at character {error.pos + 1})") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: of two scores for one answer neither counts."""
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"it has {min(twice)!r:.40} twice")
    return dict(pairs)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= BEST
