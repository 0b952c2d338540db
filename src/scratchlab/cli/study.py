"""`scratchlab study`: the family; each command lives in a file of its own and is imported when it is called."""

import click

from scratchlab.cli.main import LazyCommands

STUDY_COMMANDS = {
    "new": ("scratchlab.cli.study_new:new", "Write a study file that runs as it is, to be changed."),
    "plan": ("scratchlab.cli.study_plan:plan", "Arms, runs, hours, money, and the smallest effect it can see."),
    "run": ("scratchlab.cli.study_run:run", "Run what is missing, then say what came of it."),
    "status": ("scratchlab.cli.study_run:status", "Where a study stands, and its verdicts so far."),
    "report": ("scratchlab.cli.study_report:report", "What came of it, as a page, as Markdown, as JSON."),
    "export": ("scratchlab.cli.study_export:export", "A task file that runs it on rented machines."),
    "analyze": ("scratchlab.cli.study_analyze:analyze", "The same analysis on anybody's table of results."),
}


@click.group(cls=LazyCommands, table=STUDY_COMMANDS, epilog="Example: scratchlab study run studies/mine.toml")
def study() -> None:
    """Which changes are real? State a baseline and what to try; the lab runs it and judges it."""
