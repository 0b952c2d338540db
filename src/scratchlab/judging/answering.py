"""Letting a model answer the questions of a file: kept as they come, so that nothing is answered twice."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scratchlab import lines
from scratchlab.files import file_name, sha256_of_json
from scratchlab.generation.engine import Settings
from scratchlab.judging.answers import FORMAT, KIND, Answer, Question, Record, identity_of, read_lines, record_of
from scratchlab.judging.author import Author, seed_of

WHAT = "the answers"
AT_ONCE = 64
"""Questions that an author gets together: it may answer them in any order, several at a time."""


def answer_questions(
    author: Author,
    questions: Sequence[Question],
    data: str,
    settings: Settings,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Let `author` answer, going on with its file in `folder` if there is one. Gives the path of the file.

    `data` is what people call the questions; `progress` is told of answers that are there, and of all there will be.
    UnfinishedError while another process writes the same file.
    """
    head = _head(author, questions, data, settings)
    key = sha256_of_json([head[name] for name in ("model_sha256", "data_sha256", "template", "settings")])[:8]
    path = folder / f"{file_name(author.name)}-{key}.jsonl"
    with lines.held(path, WHAT):
        lines.begin(path, head, WHAT)
        known = read_lines(path)[1]
        ahead = [question for question in questions if question.number not in known]
        done = len(known)
        progress(done, len(questions))
        for start in range(0, len(ahead), AT_ONCE):
            chunk = ahead[start : start + AT_ONCE]
            likelihoods = author.likelihoods(chunk)
            for place, written in author.write(chunk, settings):
                answer = Answer(chunk[place], written, seed_of(settings.seed, chunk[place]), likelihoods[place])
                lines.append(path, [record_of(answer)], WHAT)
                progress(done := done + 1, len(questions))
    return path


def _head(author: Author, questions: Sequence[Question], data: str, settings: Settings) -> Record:
    kept = ("max_tokens", "temperature", "top_k", "top_p", "seed")
    return {
        "format": FORMAT,
        "kind": KIND,
        "model": author.name,
        "model_sha256": author.identity,
        "template": author.template,
        "settings": {name: getattr(settings, name) for name in kept},
        "data": data,
        "data_sha256": identity_of(questions),
        "items": len(questions),
    }
