"""The loss of a model on a text, document by document, in a log that comparisons pair by document.

    evaluations/MODEL/corpora-books-test-3f2a9c1e.jsonl     the first line says of what; then a line for each document
    evaluations/MODEL/corpora-books-test-3f2a9c1e.part-0    while it runs: what the first process has scored

Windows cross documents, so what is kept while it runs are the sums of a few windows at a time. Whoever goes on after an
interruption scores none of them again, and ends with the same figures. The log is written at the end, in one piece.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.examples.fit import fit_instructions
from scratchlab.corpus.windows import Consecutive
from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation.examples import evaluate_examples
from scratchlab.evaluation.loss import (
    STREAMS,
    LossResult,
    Scored,
    byte_lengths,
    rows_at_once,
    score_part,
    summarize,
    work_in_streams,
    work_in_windows,
)
from scratchlab.evaluation.processes import own_share, summed
from scratchlab.evaluation.results import FORMAT, Log, Record, read_log
from scratchlab.evaluation.scorer import Remembers
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.texts import Text, same_tokens, text_for
from scratchlab.files import disk_errors, file_name, sha256_of_json, write_atomically

KIND = "loss"

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


def evaluate_text(
    subject: Subject,
    text: Text,
    folder: Path,
    *,
    stride: int | None = None,
    progress: Progress = lambda done, total: None,
) -> LossResult:
    """Score `subject` on `text`, going on with what is in `folder` if there is something.

    Windows have `subject.window` tokens and begin `stride` tokens apart: as many, so that they do not overlap, unless
    told otherwise. With fewer, each target after the first window has more than window - stride tokens before it, and
    scoring costs window / stride times as much. `progress` is told of targets that are done, and of all there are. Of
    examples the responses are scored, each by itself.

    Where torch.distributed has several processes, all must call this. Each scores its share, all get the same figures,
    and the first writes the log. A model that remembers reads on from window to window, and begins again after an
    interruption. UsageError for a stride that cannot be, and for examples worded for another tokenizer.
    """
    if text.examples is not None:
        _check_examples(subject, text, stride)
    log = _log_of(subject, text, _stride(subject, stride), folder)
    first = own_share().rank == 0
    if summed(np.array([float(first and log.path.exists())]))[0] > 0:  # the first's word counts, on whatever disk
        table = summed(_table(read_log(log.path)[1]) if first else np.zeros((3, log.head["items"])))
    else:
        table = _scored(subject, text, log, progress)
        if first:
            write_atomically(log.path, "".join(json.dumps(line) + "\n" for line in [log.head, *_records(table)]))
        summed(np.zeros(1))  # nothing is removed before the log is there
    for part in _parts(log.path):
        part.unlink(missing_ok=True)
    return _result(log.head, table)


def read_loss(path: Path) -> tuple[Record, LossResult]:
    """The head and the figures of a log. ScratchlabError if it is damaged, or a log of something else."""
    head, records = read_log(path)
    if head.get("kind") != KIND or len(records) != head["items"]:
        raise ScratchlabError(f"{path} is no log of the loss on a text, or was cut off. Delete it, and evaluate again.")
    return head, _result(head, _table(records))


def _result(head: Record, table: Floats) -> LossResult:
    nats, n_tokens, n_bytes = table
    return summarize(head["unit"], nats, n_tokens, n_bytes, head["reencoded"])


def _stride(subject: Subject, stride: int | None) -> int:
    if stride is None:
        return subject.window
    if subject.remembers:
        raise UsageError(f"--stride {stride}: {subject.name} remembers what it has read; its windows do not overlap.")
    if not 1 <= stride <= subject.window:
        raise UsageError(f"--stride {stride}: expected 1 to {subject.window}, the window of {subject.name}.")
    return stride


def _check_examples(subject: Subject, text: Text, stride: int | None) -> None:
    if stride is not None:
        raise UsageError(f"--stride {stride}: {text.name} is examples, which are scored one by one.")
    if subject.remembers:
        raise UsageError(f"{subject.name} remembers all it has read, and examples must not see each other.")
    if not same_tokens(text.encoder, subject.encoder):
        raise UsageError(
            f"{text.name}: its examples are worded for another tokenizer than that of {subject.name}. To score a model "
            "that lacks some special tokens, begin a run of no steps from it: start.weights, training.steps=0."
        )
    if not _n_units(subject, text):
        raise UsageError(
            f"{text.name}: no response begins within the {subject.window} tokens that {subject.name} sees."
        )


def _log_of(subject: Subject, text: Text, stride: int, folder: Path) -> Log:
    rows = STREAMS if subject.remembers else rows_at_once(subject.window, subject.device)
    settings = {"window": subject.window, "stride": stride, "rows": rows}
    head = {
        "format": FORMAT,
        "kind": KIND,
        "model": subject.name,
        "model_sha256": subject.identity,
        "task": text.name,
        "task_sha256": text.identity,
        "reencoded": not same_tokens(text.encoder, subject.encoder),
        "unit": text.units.kind,
        "items": _n_units(subject, text),
        **settings,
    }
    key = sha256_of_json([subject.identity, text.identity, settings])[:12]
    return Log(folder / file_name(subject.name) / f"{file_name(text.name)}-{key}.jsonl", head)


def _n_units(subject: Subject, text: Text) -> int:
    """How many parts of a text are scored; of examples, those of which something fits the model."""
    return len(text.units) if text.examples is None else len(fit_instructions(text.examples, subject.window).useful)


def _table(records: list[Record]) -> Floats:
    """The nats, targets and bytes of each document: (3, documents)."""
    return np.array([[record[name] for record in records] for name in ("nats", "tokens", "bytes")], np.float64)


def _records(table: Floats) -> list[Record]:
    return [
        {"item": number, "nats": _finite(nats), "tokens": int(tokens), "bytes": int(size)}
        for number, (nats, tokens, size) in enumerate(table.T.tolist(), start=1)
    ]


def _finite(nats: float) -> float | None:
    """JSON has no numbers that are not finite: a loss that is none is kept as null, and read back as nan."""
    return nats if math.isfinite(nats) else None


# Scoring.


def _scored(subject: Subject, text: Text, log: Log, progress: Progress) -> Floats:
    """The nats, targets and bytes of each document, of all processes together."""
    with disk_errors(log.path, "the results"):
        log.path.parent.mkdir(parents=True, exist_ok=True)
    if text.examples is not None:
        sizes = byte_lengths(text.encoder)
        losses = evaluate_examples(subject.scorer, text.examples, subject.window, sizes)
        return np.array([losses.nats, losses.n_tokens, losses.n_bytes], np.float64)
    text = text_for(text, subject.encoder, log.path.parent)
    nats = np.zeros(len(text.units))
    found = _in_streams(subject, text, progress) if subject.remembers else _in_windows(subject, text, log, progress)
    for part in found:
        part.add_to(nats)
    return np.array([summed(nats), text.units.n_tokens, text.units.n_bytes], np.float64)


def _in_windows(subject: Subject, text: Text, log: Log, progress: Progress) -> list[Scored]:
    """This process's parts in their order, those that were kept before included."""
    windows = Consecutive(text.tokens, subject.window, log.head["stride"], len(text.tokens) - 1)
    share = own_share()
    kept = Log(log.path.with_suffix(f".part-{share.rank}"), log.head)
    kept.begin()
    known = {number: scored for path in _parts(log.path) for number, scored in _kept(Log(path, log.head)).items()}
    own = {number: scored for number, scored in known.items() if number % share.count == share.rank}
    done = sum(scored.n_targets for scored in own.values())
    work = work_in_windows(windows, share, subject.device, own)
    progress(done, work.n_targets)
    for part in work.parts:
        scored = own[part.number] = score_part(subject.scorer.windows, part, text.units.starts)
        nats = [_finite(loss) for loss in scored.nats.tolist()]
        kept.append([{"item": part.number, "tokens": scored.n_targets, "first": scored.first, "nats": nats}])
        progress(done := done + scored.n_targets, work.n_targets)
    return [own[number] for number in sorted(own)]


def _parts(path: Path) -> list[Path]:
    """What processes have kept, of this run or of one before it with more or fewer of them."""
    return sorted(path.parent.glob(f"{path.stem}.part-*"))


def _kept(part: Log) -> dict[int, Scored]:
    """What a process has kept, by the number of the part. Of a file that is damaged nothing: it is scored again."""
    try:
        records = part.read()
    except ScratchlabError:
        return {}
    return {
        number: Scored(record["tokens"], record["first"], np.array(record["nats"], np.float64))
        for number, record in records.items()
    }


def _in_streams(subject: Subject, text: Text, progress: Progress) -> list[Scored]:
    assert isinstance(subject.scorer, Remembers)
    subject.scorer.forget()  # what it read before was another text
    work = work_in_streams(text.tokens, subject.window, len(text.tokens) - 1, own_share())
    found, done = list[Scored](), 0
    for part in work.parts:
        found.append(score_part(subject.scorer.windows, part, text.units.starts))
        progress(done := done + found[-1].n_targets, work.n_targets)
    return found
