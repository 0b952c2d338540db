"""`scratchlab finetune`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchlab.cli.output import as_json, counts_text, show
from scratchlab.errors import UsageError

if TYPE_CHECKING:
    from scratchlab.corpus.store import Corpus
    from scratchlab.training.finetuning import Shown

LORA = {
    "r": "lora_rank",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "layers": "lora_layers",
}


@click.command(
    epilog="Example: scratchlab finetune runs/first --data instructions.json --out runs/taught training.epochs=2"
)
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--data", required=True, metavar="FILE|hf:USER/DATASET|CORPUS", help="The examples to learn from.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The run folder to make.")
@click.option("--template", metavar="TEMPLATE", help="alpaca, chatml, or the path of a chat template.  [default: that "
              "of RUN, else alpaca]")  # fmt: skip
@click.option("--split", default="auto", show_default=True, metavar="RULE", help="As of corpus build: hash:.9,.05,.05 "
              "or contiguous:.85,.05,.1, counted in examples.")  # fmt: skip
@click.option(
    "--pairs", is_flag=True, help="The data are pairs (prompt, chosen, rejected): learn what is better (DPO)."
)
@click.option("--labels", is_flag=True, help="The examples are texts with labels, and a head that tells these is put "
              "in the place of the model's own.")  # fmt: skip
@click.option("--learn-from", type=click.Choice(["responses", "all"]), help="What counts.  [default: responses]")
@click.option(
    "--lora",
    metavar="r=16[,alpha=32]",
    help="Train low-rank adapters alone: r, alpha, dropout, layers (all, attention, query_value, mlp).",
)
@click.option("--show-mask", type=click.IntRange(min=1), is_flag=False, flag_value=3, metavar="[N]", help="Show the "
              "first N examples (3) with what is learned from, and train nothing.")  # fmt: skip
@click.option("--prepare", is_flag=True, help="Make the corpus and the recipe (DIR.toml), and train nothing.")
@as_json
def finetune(
    run: str,
    overrides: tuple[str, ...],
    data: str,
    out: Path | None,
    template: str | None,
    split: str,
    pairs: bool,
    labels: bool,
    learn_from: str | None,
    lora: str | None,
    show_mask: int | None,
    prepare: bool,
    as_json: bool,
) -> None:
    """Teach RUN, trained here or imported, from examples: instructions with answers, conversations, pairs of answers,
    texts with labels.

    The examples become a corpus beside the new run (DIR-corpus), worded by a chat template, and the run learns what the
    assistant says in them. With --pairs it learns to tell the chosen answer to a prompt from the rejected one (DPO):
    such lines are made by scratchlab judge --pairs and scratchlab label. With --labels it learns which label a text has
    (scratchlab classify). It is resumed like any other: scratchlab train --resume DIR.
    """
    import tempfile

    from scratchlab.recipe_files import parse_override
    from scratchlab.runfolder import RunFolder
    from scratchlab.training.finetuning import Kind, examples_corpus, finetuning_recipe, first_examples

    if pairs and labels:
        raise UsageError("--pairs and --labels are two kinds of examples: say which these are.")
    folder, changes = RunFolder.open(run), dict(map(parse_override, overrides))
    kind: Kind = "pairs" if pairs else "labels" if labels else "instructions"
    finetuning = _lora(lora) | ({"learn_from": learn_from} if learn_from else {})
    if show_mask is not None:
        with tempfile.TemporaryDirectory() as scratch:
            corpus = examples_corpus(folder, data, Path(scratch) / "corpus", template, split, kind)
            recipe = finetuning_recipe(folder, corpus, finetuning, changes)
            _show_masks(first_examples(recipe, corpus, show_mask), as_json)
        return
    if out is None:
        raise UsageError("Missing option '--out': the run folder to make.")
    if out.exists():
        raise UsageError(f"{out} exists already; a new run needs a folder of its own. To go on with it: scratchlab "
                         f"train --resume {out}")  # fmt: skip
    corpus = examples_corpus(folder, data, out.with_name(f"{out.name}-corpus"), template, split, kind)
    recipe = finetuning_recipe(folder, corpus, finetuning, changes)
    if prepare:
        _prepare(recipe, corpus, out.with_name(f"{out.name}.toml"), as_json)
    else:
        _train(recipe, corpus, out, as_json)


def _lora(text: str | None) -> dict[str, Any]:
    """`r=16,alpha=32` as fields of `[finetuning]`."""
    from scratchlab.recipe_files import parse_override

    if text is None:
        return {}
    given = dict(parse_override(part) for part in text.split(","))
    if unknown := [name for name in given if name not in LORA]:
        raise UsageError(f"--lora {text}: there is no {unknown[0]}; expected r=16, and perhaps alpha, dropout, layers.")
    fields = {LORA[name]: value for name, value in given.items()}
    if "lora_rank" not in fields:
        raise UsageError(f"--lora {text}: say the rank of the adapters, as in r=16.")
    return fields


def _left_out(corpus: "Corpus") -> dict[str, int]:
    """How many examples the corpus was made without, by the reason."""
    counts = Counter[str]()
    for source in corpus.manifest.sources:
        counts.update({kind: entry.documents for kind, entry in source.removed.items()})
    return dict(counts)


def _with_left_out(corpus: "Corpus") -> str:
    """The place of a corpus, and what it was made without."""
    left_out = counts_text(_left_out(corpus))
    return f"{corpus.path} (left out: {left_out})" if left_out else f"{corpus.path}"


def _prepare(recipe: Any, corpus: "Corpus", path: Path, as_json: bool) -> None:
    """Write the recipe, and say how it is trained."""
    from scratchlab.files import write_atomically

    if path.exists():
        raise UsageError(f"{path} exists already and was left as it is. Give another --out, or delete it first.")
    write_atomically(path, f"# Made by scratchlab finetune --prepare.\n{recipe.to_toml()}")
    report = {"corpus": str(corpus.path), "left_out": _left_out(corpus), "recipe": str(path)}
    lines = f"Corpus: {_with_left_out(corpus)}", f"Recipe: {path}", f"To train it: scratchlab train {path} --out DIR"
    show(report, as_json, lambda _: "\n".join(lines))


def _train(recipe: Any, corpus: "Corpus", out: Path, as_json: bool) -> None:
    from scratchlab.cli.output import reporter
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.runfolder import RunFolder
    from scratchlab.training import loop

    with reporter() as report:
        report.say(f"The examples are in {_with_left_out(corpus)}")
        loop.train(recipe, out, report)
    show(describe(RunFolder.open(out)), as_json, run_text)


def _show_masks(examples: "list[Shown]", as_json: bool) -> None:
    """What is learned from in green on a terminal, a rejected answer in red; elsewhere both in brackets."""
    from rich.console import Console
    from rich.text import Text

    if as_json:
        pieces = [{**one._asdict(), "pieces": [piece._asdict() for piece in one.pieces]} for one in examples]
        show({"examples": pieces}, True, str)
        return
    console = Console(highlight=False, soft_wrap=True)
    colored = console.is_terminal and not console.no_color
    for one in examples:
        text = Text(f"example {one.id}", style="bold")
        text.append(_remark(one), style="not bold")
        compared = any(piece.rejected for piece in one.pieces)
        for piece in one.pieces:
            marked = piece.text if colored or not piece.learned else f"⟦{piece.text}⟧"
            if compared and piece.learned:
                text.append("\nrejected: " if piece.rejected else "\nchosen: ", style="bold")
            color = "red" if piece.rejected else "green"
            text.append(marked, style=f"not bold {color}" if piece.learned else "not bold dim")
        console.print(text, end="\n\n")


def _remark(one: "Shown") -> str:
    if not one.pieces:
        return ": left out, for nothing of its response fits the model's context\n"
    return " (its end does not fit the model's context, and is cut off)\n" if one.cut else "\n"
