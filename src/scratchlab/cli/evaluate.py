"""`scratchlab evaluate`."""

from typing import Any, Literal

import click

from scratchlab.cli.output import as_json, loss_text, show


@click.command(epilog="Example: scratchlab evaluate runs/first --split validation --json")
@click.argument("run")
@click.option("--split", default="test", show_default=True, help="The split of the corpus to score.")
@click.option("--corpus", metavar="DIR", help="Another corpus with the same tokenizer.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--device", default="auto", show_default=True)
@as_json
def evaluate(
    run: str, split: str, corpus: str | None, at: Literal["final", "best"], device: str, as_json: bool
) -> None:
    """The loss of RUN on held-out text: every token once, in nats per token and bits per byte.

    The error is the standard error over documents, or over stretches of text where there are fewer than 8 documents.
    """
    from scratchlab.corpus.store import open_corpus
    from scratchlab.errors import CorpusError
    from scratchlab.evaluation.loss import evaluate_loss
    from scratchlab.evaluation.scorer import model_scorer
    from scratchlab.model.load import load_model
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    text = open_corpus(corpus or folder.manifest()["evaluation_corpus"]["path"])
    if text.tokenizer.sha256 != folder.manifest()["tokenizer_sha256"]:
        raise CorpusError(f"{text.path} has another tokenizer than {run}; its tokens would mean other words.")
    model = load_model(folder, at, device)
    remembers = model.config.architecture == "rnn"
    result = evaluate_loss(model_scorer(model), text.split(split), model.config.context_length, remembers=remembers)
    report = {"run": run, "at": at, "corpus": str(text.path), "split": split, **result.to_json()}
    show(report, as_json, _text)


def _text(report: dict[str, Any]) -> str:
    return (
        f"{report['run']} ({report['at']}) on the {report['split']} split of {report['corpus']}\n  {loss_text(report)}"
    )
