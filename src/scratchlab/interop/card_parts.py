"""What the parts of a model card say, each from the run folder and no more: a list of paragraphs; none for no part."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.proof_files import CHARTS
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.summary import validation_records
from scratchlab.words import with_error

Part = tuple[str, list[str]]
"""A title and the paragraphs below it."""
MOST_WRITTEN = 1200  # characters of a sample
SIZES = ("n_layer", "n_head", "n_kv_head", "d_model", "context_length")
LOWEST = "where its validation loss was lowest"


def which_weights(folder: RunFolder, at: str | int) -> str:
    """Of which step they are, and why those."""
    if isinstance(at, int):
        return f"These are the weights of step {at:,}."
    if at != "final":
        return f"These are the weights of step {folder.snapshot(at)[1]['step']:,}, {LOWEST}."
    checkpoint, _ = folder.last_good_checkpoint()
    state = {"step": 0} if checkpoint is None else checkpoint[1]
    if (best := state.get("weights_of")) is not None:
        return f"These are the weights of its last checkpoint: those of step {best:,} of {state['step']:,}, {LOWEST}."
    return f"These are the weights of its last checkpoint, at step {state['step']:,}."


def what_it_is(folder: RunFolder, proof: Record) -> list[str]:
    """Sizes, the switches in which it differs from GPT-2, and which of its weights these are."""
    weights = [] if "imported" in folder.manifest() else [which_weights(folder, proof["run"]["at"])]
    manifest, model = folder.manifest(), folder.resolved().model
    given = model.model_dump(exclude_defaults=True)
    rows = [(name, value) for name in SIZES if (value := getattr(model, name, None)) is not None]
    rows += [("vocabulary", f"{manifest['vocab_size']:,}"), ("class in transformers", proof["class"])]
    rows += [(name, value) for name, value in given.items() if name not in SIZES]
    of_run = proof["run"]["parameters"]
    rows += [("parameters", f"{proof['checks']['parameters']['hub']:,}")]
    sizes = table(("", ""), rows)
    if of_run == proof["checks"]["parameters"]["hub"]:
        return [sizes, *weights]
    why = (
        "padding of its vocabulary is left out here, and zeros stand for biases that this class has and the run has not"
    )
    return [sizes, f"The run itself has {of_run:,}: {why}.", *weights]


def quality(folder: RunFolder, proof: Record) -> list[str]:
    """The test loss with its error, the last validation, and tasks that it was asked."""
    result = folder.result() or {}
    scored = [(result[part], name) for part, name in SCORED if result.get(part)]
    rows = [(name, *_loss(loss)) for loss, name in scored]
    said = [table((f"loss on {scored_on(scored[0][0])}", "bits per byte", "nats per token", "n"), rows)] if rows else []
    if rows and scored_on(scored[0][0]) == RESPONSES:
        said.append("It is the loss of what the assistant says alone: what it is asked is not scored.")
    preferred = [(name, *_preferred(figures)) for figures, name in scored if "pairs" in figures]
    if preferred:
        said.append(table(("pairs of", "prefers the chosen one", "margin in nats", "n"), preferred))
    if not result.get("test"):
        said.append("It has no test loss: nothing was scored on a test split.")
    elif proof["run"]["at"] != "final":
        said.append(f"These figures are of the final weights; the weights here are those {_at(proof['run']['at'])}.")
    asked = [record for record in folder.metrics() if "suites" in record]
    if asked:
        said.append(table(("task", "metric", "value", "n"), [_task(*one) for one in asked[-1]["suites"].items()]))
    if answers := result.get("answers"):
        chrf = with_error(answers["chrf"], answers["chrf_error"], 2)
        said.append(f"Answers to {answers['n']:,} questions of the test split: chrF {chrf} beside the references.")
    return said


TEXT, RESPONSES = "held-out text", "the responses to held-out instructions"
CHOSEN, LABELS = "the chosen answers of held-out pairs", "the labels of held-out texts"


def scored_on(figures: Record) -> str:
    """What of the held-out split was scored."""
    if "pairs" in figures:
        return CHOSEN
    return {"examples": RESPONSES, "texts": LABELS}.get(figures["unit"], TEXT)


SCORED = (("test", "test split"), ("validation", "validation split, at the end"))


def _at(at: str | int) -> str:
    return "of the lowest validation loss" if at == "best" else f"of step {at:,}"


def _loss(loss: Record) -> tuple[str, str, str]:
    bits, nats = (with_error(loss[name], loss[f"{name}_error"], 4) for name in ("bits_per_byte", "nats_per_token"))
    return bits, nats, f"{loss['n_units']:,} {loss['unit']}, {loss['n_tokens']:,} tokens"


def _preferred(figures: Record) -> tuple[str, str, str]:
    share, margin = (with_error(figures[name], figures[f"{name}_error"], 3) for name in ("accuracy", "margin"))
    return share, margin, f"{figures['pairs']:,}"


def _task(name: str, figures: Record) -> tuple[str, str, str, str]:
    main: Record = figures[figures["metric"]]
    return name, figures["metric"], with_error(main["value"], main["error"], 3), f"{main['n']:,}"


def charts(pictures: Sequence[Path]) -> list[str]:
    return (
        ["\n".join(f"![{path.stem.replace('_', ' ')}]({CHARTS}/{path.name})" for path in pictures)] if pictures else []
    )


def samples(folder: RunFolder, at: str | int) -> list[str]:
    """The last one, as it was written: from the start of a text, or as the answer to a question.

    Of a snapshot, the last one that was written by then.
    """
    written = [one for one in folder.samples() if not isinstance(at, int) or one["step"] <= at]
    if not written:
        return []
    last = written[-1]
    scored = {one["step"]: one["validation"] for one in validation_records(folder.metrics())}
    loss = scored.get(last["step"])
    by = f" (validation loss {with_error(loss['nats_per_token'], None, 3)} nats a token)" if loss else ""
    asked = [*_asked(folder, last["prompt"]), "it answers:"] if last.get("prompt") else []
    return [f"At step {last['step']:,}{by}, by itself:"] * (not asked) + [*asked, _quoted(last["text"])]


HERE = "\ufdd4"  # no text has it: where in the template's words a question stands


def _asked(folder: RunFolder, prompt: str) -> list[str]:
    """The question as a person asked it: `prompt` without the words that the template puts around it.

    It was recorded without special tokens. A conversation of several turns stays as it is.
    """
    template, tokenizer = run_template(folder), run_tokenizer(folder)
    worded = "" if template is None else template.render([{"role": "user", "content": HERE}], prompt=True)
    for name in tokenizer.specials:
        worded = worded.replace(name, "")
    before, _, after = worded.partition(HERE)
    question = prompt.removeprefix(before).removesuffix(after)
    alone = prompt == f"{before}{question}{after}" and not (after and after in question)
    if alone:
        return ["To the question:", _quoted(question)]
    return ["After a conversation, in the words of its template without special tokens:", _quoted(prompt)]


def _quoted(text: str) -> str:
    """As a block of code, whatever is in it; for what cannot be seen stands U+FFFD."""
    text = text.strip("\n")[:MOST_WRITTEN] or "(nothing)"
    text = "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def studies(found: Sequence[Record]) -> list[str]:
    """The place of the run in each study that has it."""
    return [
        f"It is block {one['block']} of the arm `{one['arm']}` in the study `{one['study']}`, which has "
        f"{one['runs']:,} runs and judges by `{one['metric']}`. A difference between arms rests on all of them."
        for one in found
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )
