"""`scratchlab judge`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from scratchlab.cli.live import live_line, time_left
from scratchlab.cli.output import as_json, show

Report = dict[str, Any]
FOR_JUDGES = (
    *("repeats", "one_by_one", "seed", "tries", "at_once", "timeout", "temperature", "price", "max_cost", "dry_run"),
    *("labels", "folder"),
)
"""What means nothing where no judge is asked."""


@click.command(
    epilog="Example: scratchlab judge answers --judge http://localhost:11434/v1#llama3.3 --repeats 3 --dry-run"
)
@click.argument("answers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ANSWERS...")
@click.option("--judge", "judges", multiple=True, metavar="JUDGE",
              help="openai:MODEL, http://HOST:PORT/v1#MODEL or command:PROGRAM; one or several.")  # fmt: skip
@click.option("--baseline", metavar="MODEL", help="What the others are compared with.  [default: the first]")
@click.option("--smallest-effect", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              metavar="X", help="Smaller differences, in points of 100, do not matter.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Prompts for each question.")
@click.option("--one-by-one", is_flag=True, help="Judge each answer alone as well: which way is steadier?")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Of orders and anchors.")
@click.option("--tries", type=click.IntRange(min=1), default=3, show_default=True, help="Malformed replies allowed.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Of a server's replies.  [default: 0]")
@click.option("--at-once", type=click.IntRange(min=1), default=4, show_default=True, help="Requests in flight.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True,
              help="Seconds for a reply.")  # fmt: skip
@click.option("--price", metavar="IN,OUT", help="Dollars for a million tokens read and written, as in 0.15,0.60.")
@click.option("--max-cost", type=click.FloatRange(0), metavar="DOLLARS", help="Ask nothing that may go beyond it.")
@click.option("--dry-run", is_flag=True, help="Say how much would be asked, and ask nothing.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="A person's labels, to compare with.")
@click.option("--pairs", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the best and the worst answer to each question: pairs to learn from. Of one model without a "
              "judge: the reference and its answer.")  # fmt: skip
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as a page too.")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("judgments"), show_default=True,
              help="Where replies are kept: what was paid is not paid twice.")  # fmt: skip
@as_json
@click.pass_context
def judge(context: click.Context, answers: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Which model answers best? Judge the files (or folders) ANSWERS of scratchlab answer.

    Without --judge, by the reference answers alone: chrF, and the loss on the reference. With one, all answers to a
    question stand in one prompt, blind, in a balanced order, and among them a good and a bad answer that show whether
    the judge is any good. Every reply is kept as it comes: run again, it goes on where it stopped. A key is taken from
    OPENAI_API_KEY, and goes to OpenAI alone; where OPENAI_BASE_URL is set, to that address alone.
    """
    from scratchlab.judging.answers import open_answers

    _check_heeded(context, bool(options["judges"]))
    found = open_answers(answers)
    baseline = _place_of(options["baseline"], [one.model for one in found])
    if not options["judges"]:
        _offline(found, baseline, options, as_json)
    else:
        _judged(found, baseline, options, as_json)


def _check_heeded(context: click.Context, asked: bool) -> None:
    """UsageError for an option that would mean nothing."""
    from scratchlab.errors import UsageError

    if asked:
        return
    for name in FOR_JUDGES:
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            option = "--out" if name == "folder" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for judges, and none was named: add --judge, or leave {option} out.")


def _place_of(baseline: str | None, models: list[str]) -> int:
    from scratchlab.errors import UsageError

    if baseline is not None and baseline not in models:
        raise UsageError(f"--baseline {baseline}: there are answers of {', '.join(models)}.")
    return 0 if baseline is None else models.index(baseline)


def _offline(found: Any, baseline: int, options: Report, as_json: bool) -> None:
    from scratchlab.cli.judge_text import offline_text
    from scratchlab.judging.offline import offline_pairs, score_offline

    scores = score_offline(found, baseline, options["smallest_effect"]).to_json()
    report = {"data": found[0].head["data"], "baseline": found[baseline].model, **scores}
    if options["markdown"]:
        from scratchlab.judging.report_markdown import offline_markdown

        _write(options["markdown"], offline_markdown(report))
    if options["pairs"]:
        report |= _write_pairs(options["pairs"], offline_pairs(found, options["smallest_effect"]))
    show(report, as_json, offline_text)


def _judged(found: Any, baseline: int, options: Report, as_json: bool) -> None:
    from scratchlab.cli.judge_text import ahead_text, judged_text
    from scratchlab.errors import ScratchlabError, UnfinishedError
    from scratchlab.judging.contest import contest_of
    from scratchlab.judging.labels import pairs_of, read_labels
    from scratchlab.judging.panel import ahead_of, panels_of
    from scratchlab.judging.report import Matter, report_of
    from scratchlab.judging.report_tables import too_little
    from scratchlab.judging.scores import mean_of

    contest, plan = contest_of(found, options["seed"]), _plan(options)
    labels = None if options["labels"] is None else read_labels(options["labels"], contest)
    judges = _open_judges(options)
    if options["dry_run"]:
        rows = [asdict(one) for one in ahead_of(contest, judges, plan)]
        show({"dry_run": rows}, as_json, ahead_text)
        return
    with live_line() as line:
        told: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            told.setdefault(name, time_left(line, name))(done, total)

        panels = panels_of(contest, judges, plan, progress)
    report = report_of(Matter(found, contest, baseline, options["smallest_effect"], labels), panels)
    if options["markdown"]:
        from scratchlab.judging.report_markdown import judged_markdown

        _write(options["markdown"], judged_markdown(report))
    if options["pairs"]:
        values = mean_of(panels[0].scores.values, 1)  # those of the first judge
        report |= _write_pairs(options["pairs"], pairs_of(contest, values, options["smallest_effect"]))
    show(report, as_json, judged_text)
    if left := sum(panel.asked.left for panel in panels):
        raise UnfinishedError(
            f"{left:,} prompts were not asked: they may have cost more than --max-cost {options['max_cost']:g}. Run "
            "the same command with more: it goes on where it stopped."
        )
    if silent := [panel for panel in report["panels"] if panel["checks"] is None]:
        raise ScratchlabError(" ".join(f"{panel['judge']}, {panel['way']}: {too_little(panel)}" for panel in silent))


def _plan(options: Report) -> Any:
    from scratchlab.errors import UsageError
    from scratchlab.judging.cost import parse_price
    from scratchlab.judging.panel import Plan

    if options["max_cost"] is not None and options["price"] is None:
        raise UsageError("--max-cost needs a price: --price 0.15,0.60 is dollars for a million tokens in and out.")
    return Plan(
        ways=("together", "one by one") if options["one_by_one"] else ("together",),
        repeats=options["repeats"],
        seed=options["seed"],
        tries=options["tries"],
        at_once=options["at_once"],
        price=None if options["price"] is None else parse_price(options["price"]),
        most=options["max_cost"],
        folder=options["folder"],
    )


def _open_judges(options: Report) -> list[Any]:
    from scratchlab.errors import UsageError
    from scratchlab.judging.judges import open_judge

    names = options["judges"]
    if len(set(names)) < len(names):
        raise UsageError("--judge: a judge is named twice. For more replies of one, say --repeats.")
    return [open_judge(name, options["temperature"], options["timeout"]) for name in names]


def _write(path: Path, content: str | bytes) -> None:
    from scratchlab.files import write_atomically

    write_atomically(path, content)


def _write_pairs(path: Path, pairs: Any) -> Report:
    """Write preference pairs; gives how many, and how many were left out."""
    from scratchlab.lines import encoded

    _write(path, b"".join(encoded(line) for line in pairs.lines))
    return pairs.to_json()
