"""The labels that a run tells texts by."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scratchlab.errors import UsageError
from scratchlab.evaluation.labels import label_scores
from scratchlab.generation.text import run_tokenizer
from scratchlab.model.load import At, load_classifier
from scratchlab.runfolder import RunFolder


@dataclass(frozen=True, slots=True)
class Told:
    """What a model says of a text."""

    text: str
    label: str
    """The likeliest."""
    probability: float
    """Its own."""
    probabilities: dict[str, float]
    """Of all labels."""
    cut: bool
    """Whether the text is longer than the model sees, and was judged by its beginning."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tell_labels(folder: RunFolder, texts: Sequence[str], at: At = "final", device: str = "auto") -> list[Told]:
    """The label of each text by the model of a run that learned from texts with labels."""
    model, tokenizer = load_classifier(folder, at, device), run_tokenizer(folder)
    names: list[str] = folder.manifest()["labels"]
    if blank := [text for text in texts if not text.strip()]:
        raise UsageError(f"{blank[0]!r} is blank: there is nothing to tell a label by.")
    encoded = [tokenizer.encode(text).astype(np.int64) for text in texts]
    most = model.most_tokens
    found = np.exp(label_scores(model, [ids[:most] for ids in encoded]))
    return [
        Told(
            text,
            names[int(row.argmax())],
            float(row.max()),
            {name: float(share) for name, share in zip(names, row, strict=True)},
            most is not None and len(ids) > most,
        )
        for text, ids, row in zip(texts, encoded, found, strict=True)
    ]
