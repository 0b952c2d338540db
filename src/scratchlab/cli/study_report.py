"""`scratchlab study report`."""

from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import as_json, show
from scratchlab.cli.study_text import answer_texts


@click.command(epilog="Example: scratchlab study report studies/nano-char.toml --html report.html")
@click.argument("path", metavar="STUDY")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the page there.")
@click.option(
    "--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the Markdown file there."
)
@as_json
def report(path: str, html: Path | None, markdown: Path | None, as_json: bool) -> None:
    """What came of STUDY, whatever its state: verdicts first, then all that they rest on.

    One HTML page, which needs no other file and no network, and one Markdown file with the same figures. Where neither
    is named, both are written into the study's own folder; --json prints the figures, and writes what is named alone.
    """
    from scratchlab.files import write_atomically
    from scratchlab.study.definition import load_study
    from scratchlab.study.report import report_study
    from scratchlab.study.report_markdown import to_markdown
    from scratchlab.study.report_page import to_html

    study = load_study(path)
    found = report_study(study)
    if not (html or markdown or as_json):
        html, markdown = study.folder / "report.html", study.folder / "report.md"
    for place, written in ((html, to_html), (markdown, to_markdown)):
        if place is not None:
            write_atomically(place, written(found))
    places = [str(place) for place in (html, markdown) if place is not None]
    show(found.to_json(), as_json, lambda _: _text(found, places))


def _text(found: Any, places: list[str]) -> str:
    """The short answer, and where the long one is."""
    from scratchlab.study import report_words as words

    answers = [f"  {word}: {names}" for word, names in words.answers(found)]
    head = "\n".join([words.question(found), *words.standing(found), *answers])
    wrote = "\n".join(f"Wrote {place}" for place in places)
    return "\n\n".join(part for part in (head, *answer_texts(found), wrote) if part)
