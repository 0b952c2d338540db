"""`make quickstart`: from text to a trained model in minutes on two CPU cores.

It strings together what the commands do (corpus build, train, evaluate, sample), says what it does, and compares the
result with two yardsticks that need no network.
"""

import json
import shlex
import tempfile
import textwrap
from pathlib import Path

import click

from scratchlab.cli.main import run_command
from scratchlab.cli.output import duration, reporter, with_error
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.windows import Windows
from scratchlab.errors import RunError
from scratchlab.evaluation import yardsticks
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import write
from scratchlab.model.load import load_model
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.loop import resume
from scratchlab.training.start import create_run

RECIPE = Path("recipes/quickstart.toml")
SAMPLES, SAMPLE_TOKENS, TEMPERATURE, TOP_K = 4, 200, 0.8, 50
# Over a short text more passes teach the model to recite it: a story of 20 kB gives 2.8 bits per byte after 20, 5.5
# after 90, and then whole sentences are copies.
MOST_EPOCHS = 20


@click.command()
@click.option("--text", metavar="PATH", help="A file or folder of your own; without it, the documentation of Python.")
def quickstart(text: str | None) -> None:
    """Build a corpus, train, evaluate, sample, and say what it cost and where everything lies."""
    name = "quickstart" if text is None else f"quickstart-{Path(text).resolve().stem}"
    corpus = prepare_corpus(text or "python-docs", Path("corpora") / name)
    folder = Path("runs") / name
    if not folder.exists():
        create_run(fitting_recipe(corpus), folder)
    say(f"2. Training (recipe: {RECIPE}, run folder: {folder})")
    with reporter() as report:
        result = resume(folder, report)
    compare(corpus, result)
    show_writing(corpus, RunFolder.open(folder))
    show_cost(result, RunFolder.open(folder), corpus)


def say(text: str) -> None:
    click.echo(click.style(text, bold=True))


def prepare_corpus(source: str, path: Path) -> Corpus:
    """Build the corpus; one that is there already must be what would be built now."""
    say(f"1. Building the corpus {path} from {source}")
    if not path.exists():
        build_corpus([source], path)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            now = build_corpus([source], Path(scratch) / "corpus")
            if now.sha256 != open_corpus(path).sha256:
                raise RunError(
                    f"{source} has changed since {path} was built from it. To begin anew, remove {path} and "
                    f"runs/{path.name} and run the same command again."
                )
    corpus = open_corpus(path)
    for name in corpus.manifest.splits:
        split = corpus.split(name)
        documents, megabytes = len(split.document_bytes), split.bytes / 1e6
        click.echo(f"   {name:10} {documents:5,} documents, {megabytes:6.2f} MB, {len(split):9,} tokens")
    return corpus


def fitting_recipe(corpus: Corpus) -> Recipe:
    """The quickstart recipe on this corpus, shorter where the text is short."""
    recipe = load_recipe(RECIPE).replaced({"corpus": str(corpus.path)})
    context_length = min(recipe.model.context_length, len(corpus.split("train")) // 8)
    windows = Windows(corpus.split("train"), context_length)
    assert recipe.training.steps is not None
    steps = min(recipe.training.steps, MOST_EPOCHS * len(windows) // recipe.training.global_batch_size + 1)
    return recipe.replaced(
        {
            "model.context_length": context_length,
            "training.steps": steps,
            "training.warmup_steps": min(recipe.training.warmup_steps, steps // 10),
        }
    )


def compare(corpus: Corpus, result: Record) -> None:
    """The model's bits per byte on the test split, beside what a 3-gram and a compressor need for the same text."""
    say("3. How good is it? Bits per byte on the test split, which no training step saw (lower is better)")
    train, validation, test = ("".join(corpus.documents(split)) for split in ("train", "validation", "test"))
    bits, error = result["test"]["bits_per_byte"], result["test"]["bits_per_byte_error"]
    trigram, xz = yardsticks.trigram_bits_per_byte(train, validation, test), yardsticks.xz_bits_per_byte(train, test)
    click.echo(f"   this model                            {with_error(bits, error, 3)}")
    click.echo(f"   interpolated character 3-gram         {trigram:.3f}")
    click.echo(f"   xz -9 that has read the training text {xz:.3f}")


def show_writing(corpus: Corpus, folder: RunFolder) -> None:
    """A few samples, and what they give away about the model: real words, and recital."""
    say(f"4. What it writes (temperature {TEMPERATURE}, top-k {TOP_K})")
    model, train = load_model(folder, device="cpu"), "".join(corpus.documents("train"))
    samples: list[str] = []
    for seed in range(1, SAMPLES + 1):
        settings = Settings(max_tokens=SAMPLE_TOKENS, temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
        samples.append("".join(write(model, corpus.tokenizer, "", settings)))
    click.echo(textwrap.indent(max(samples, key=len).strip(), "   | "))
    share = yardsticks.known_word_share(" ".join(samples), train)
    copy = max((yardsticks.longest_copy(sample, train) for sample in samples), key=len)
    if share is not None:
        click.echo(
            f"   {share:.0%} of the words of four letters and more in {SAMPLES} samples occur in the training text"
        )
    click.echo(
        f"   longest copy from the training text: {len(copy)} characters, {json.dumps(copy, ensure_ascii=False)}"
    )


def show_cost(result: Record, folder: RunFolder, corpus: Corpus) -> None:
    """What it took and where everything lies."""
    cost = result["cost"]
    say("5. What it cost, and where it lies")
    click.echo(
        f"   {duration(cost['total_seconds'])} ({duration(cost['seconds']['training'])} of it training, at "
        f"{cost['training_tokens_per_second']:,.0f} tokens/s), {result['peak_memory_bytes'] / 1e9:.2f} GB of memory"
    )
    click.echo(f"   the run: {folder.path}   its charts: {folder.charts()[0].parent}")
    click.echo(f"   all figures:    scratchlab show {folder.path}")
    click.echo(f"   let it write:   scratchlab sample {folder.path} --prompt 'The ' --max-tokens 200")
    again = f"scratchlab train {RECIPE} --out runs/second corpus={shlex.quote(str(corpus.path))} model.dropout=0.1"
    click.echo(f"   change a thing: {again}")


def main() -> None:
    run_command(quickstart)


if __name__ == "__main__":
    main()
