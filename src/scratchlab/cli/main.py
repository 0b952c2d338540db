"""The `scratchlab` command: finds the family a command belongs to, loads only that, and prints errors as messages."""

import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from scratchlab import __version__
from scratchlab.errors import ScratchlabError
from scratchlab.hardware import lacks_memory, prepare_process

# command: (where it lives, its line in --help). The line stands here so that --help imports no command.
COMMANDS = {
    "corpus": ("scratchlab.cli.corpus:corpus", "Build, show and verify corpora."),
    "tokenizer": ("scratchlab.cli.tokenizer:tokenizer", "Show and compare tokenizers."),
    "plan": (
        "scratchlab.cli.plan:plan",
        "What a run will take: memory, time, money, disk; which size a budget allows.",
    ),
    "train": ("scratchlab.cli.train:train", "Train a model from a recipe, or resume a run."),
    "finetune": ("scratchlab.cli.finetune:finetune", "Teach a model from instructions with answers, or labels."),
    "evaluate": ("scratchlab.cli.evaluate:evaluate", "Measure models: loss on held-out text, tasks."),
    "classify": ("scratchlab.cli.classify:classify", "Say which label a text has, by a run that learned labels."),
    "compare": ("scratchlab.cli.compare:compare", "Is one model better than another? With intervals and a verdict."),
    "scoreboard": ("scratchlab.cli.scoreboard:scoreboard", "Models side by side, and whether figures agree."),
    "answer": ("scratchlab.cli.answer:answer", "Let models answer questions: what is judged."),
    "judge": ("scratchlab.cli.judge:judge", "Which model answers best? By references, judges and people."),
    "label": ("scratchlab.cli.label:label", "Say which of two answers is better, blind: labels and pairs."),
    "sample": ("scratchlab.cli.sample:sample", "Let a trained model write."),
    "chat": ("scratchlab.cli.chat:chat", "Talk with a model that was taught to answer."),
    "serve": ("scratchlab.cli.serve:serve", "Serve a model to clients of OpenAI's API, many at once."),
    "gallery": ("scratchlab.cli.gallery:gallery", "What a run wrote at which loss, as a page."),
    "show": ("scratchlab.cli.runs:show", "What a run is, how it went, where things lie."),
    "runs": ("scratchlab.cli.runs:runs", "List runs, compare two, delete one."),
    "import": ("scratchlab.cli.interop:import_model", "Make a run of a model that another program trained."),
    "export": ("scratchlab.cli.interop:export_model", "Write a run as a model that other programs load."),
    "publish": ("scratchlab.cli.publish:publish_model", "Put a run on the Hugging Face Hub, with its proof."),
    "verify": ("scratchlab.cli.publish:verify_export", "Is an export still what was proved?"),
    "study": ("scratchlab.cli.study:study", "Which changes are real? Plan, run and judge a study."),
    "ladder": ("scratchlab.cli.ladder:ladder", "What makes a step fast on this machine, one thing after another."),
    "recipe": ("scratchlab.cli.recipe:recipe", "Check a recipe, or print the JSON Schema of all recipes."),
}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called, not before: `table` says where each lives."""

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


@click.group(
    cls=LazyCommands,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: scratchlab corpus build my-writing/ --out corpora/mine",
)
@click.version_option(__version__, prog_name="scratchlab")
def cli() -> None:
    """Train small language models from scratch on your own machine."""


def run_command(command: click.Command) -> None:
    """Run a command; a user's mistake becomes a message and an exit code, never a traceback."""
    prepare_process()
    # Bars of other libraries are for what takes a while: the Hub's client would draw one for no file at all, too.
    os.environ.setdefault("TQDM_DELAY", "0.5")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # "?" for bytes in file names, and for what a terminal does not know
            stream.reconfigure(errors="replace")
    try:
        command.main(standalone_mode=True)
    except ScratchlabError as error:
        if not error.told:
            click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:  # no file that a person named: a fault of ours
            raise
        click.echo(f"Error: {error.filename}: {error.strerror}.", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        click.echo(f"Error: memory ran out ({said}). End other programs that use it, or give less at once.", err=True)
        sys.exit(1)


def main() -> None:
    """The `scratchlab` command."""
    run_command(cli)
