"""`scratchlab chat`."""

import contextlib
import sys
from typing import TYPE_CHECKING, Literal

import click

from scratchlab.cli.writing import choosing

if TYPE_CHECKING:
    from scratchlab.cli.chat_session import Session


@click.command(epilog='Example: scratchlab chat runs/tuned --system "Answer in one sentence." --temperature 0.5')
@click.argument("run")
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of one answer.")
@choosing(0.7)
@click.option("--seed", type=click.IntRange(0, 2**62), default=1, show_default=True, help="Of the first answer.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each answer.")
def chat(
    run: str,
    system: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    at: Literal["final", "best"],
    device: str,
    as_json: bool,
) -> None:
    """Talk with RUN, which was taught to answer (scratchlab finetune).

    Each line is a question; /help lists what else may be said. Ctrl-C stops an answer, Ctrl-D ends the conversation.
    From a file or a pipe there is an answer to each line, and nothing else on standard output.
    """
    from scratchlab.cli.chat_session import Session
    from scratchlab.errors import RunError
    from scratchlab.generation.conversation import Conversation
    from scratchlab.generation.engine import Settings
    from scratchlab.generation.text import run_template, run_tokenizer
    from scratchlab.model.load import load_model
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    template, tokenizer = run_template(folder), run_tokenizer(folder)
    if template is None:
        raise RunError(
            f"{run} has no chat template: it goes on from a text and was not taught to answer. To teach it: scratchlab "
            f"finetune {run} --data instructions.json. To let it write: scratchlab sample {run} --prompt TEXT"
        )
    template.end_of_turn(tokenizer)  # said before anybody asks, if it has none
    settings = Settings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    conversation = Conversation(load_model(folder, at, device), tokenizer, template, system)
    _talk(Session(conversation, settings, as_json), sys.stdin.isatty())


def _talk(session: "Session", by_hand: bool) -> None:
    """Line after line, until there are no more."""
    if not by_hand:
        for line in sys.stdin:
            session.hear(line.rstrip("\r\n"))
            if session.over:
                return
        return
    _edit_lines()
    session.note("/help lists what may be said besides questions.")
    while not session.over:
        try:
            session.hear_a_person(input("> "))
        except KeyboardInterrupt:
            session.note("\nCtrl-D or /quit ends the conversation.")
        except EOFError:
            click.echo()
            return


def _edit_lines() -> None:
    """Arrow keys at the prompt, where the system has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
