"""`scratchlab evaluate`."""

from typing import Any, Literal

import click

from scratchlab.cli.output import as_json, loss_text, show


@click.command(epilog="Example: scratchlab evaluate runs/first --split validation --json")
@click.argument("run")
@click.option("--split", default="test", show_default=True, help="What to score: train, validation or test.")
@click.option("--corpus", metavar="DIR", help="Another corpus, whose tokens mean the same.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@as_json
def evaluate(
    run: str, split: str, corpus: str | None, at: Literal["final", "best"], device: str, as_json: bool
) -> None:
    """The loss of RUN on held-out text: every token once, in nats per token and bits per byte.

    The error is the standard error over documents, or over stretches of text where there are fewer than 8 documents.
    """
    from scratchlab.corpus.store import open_corpus
    from scratchlab.errors import CorpusError, UsageError
    from scratchlab.evaluation.loss import evaluate_loss
    from scratchlab.evaluation.scorer import ModelScorer
    from scratchlab.generation.text import speaks
    from scratchlab.model.load import load_model
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    recorded = folder.manifest()["evaluation_corpus"]
    if corpus is None and recorded["path"] is None:
        raise UsageError(
            f"{run} was imported and has no corpus of its own: name one with --corpus, built with its tokenizer "
            f"(scratchlab corpus build TEXT... --tokenizer {run} --out DIR)."
        )
    text = open_corpus(corpus or recorded["path"])
    if corpus is None and text.sha256 != recorded["sha256"]:
        raise CorpusError(
            f"{text.path} is not the corpus that {run} was scored on: its hash is {text.sha256[:12]}, the run's "
            f"{recorded['sha256'][:12]}. Put the old corpus back, or name another with --corpus."
        )
    if not speaks(folder, text.tokenizer):
        raise CorpusError(f"{text.path} has another tokenizer than {run}; its tokens would mean other words.")
    model = load_model(folder, at, device)
    config = model.config
    result = evaluate_loss(
        ModelScorer(model).windows, text.split(split), config.context_length, remembers=config.remembers
    )
    step = folder.snapshot("best")[1]["step"] if at == "best" else folder.checkpoint_steps()[-1]
    report = {"run": run, "at": at, "step": step, "corpus": str(text.path), "split": split, **result.to_json()}
    show(report, as_json, _text)


def _text(report: dict[str, Any]) -> str:
    what = f"{report['run']} ({report['at']}, step {report['step']})"
    return f"{what} on the {report['split']} split of {report['corpus']}\n  {loss_text(report)}"
