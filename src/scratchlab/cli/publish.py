"""`scratchlab verify` and `scratchlab publish`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from scratchlab.cli.ending import ends_cleanly
from scratchlab.cli.output import as_json, count, show

license_option: Callable[[Any], Any] = click.option(
    "--license", metavar="ID", help="For the card, as the Hub names licenses: apache-2.0, mit, cc-by-4.0."
)
languages_option: Callable[[Any], Any] = click.option(
    "--language", "languages", multiple=True, metavar="CODE", help="Of the text, for the card: en, de. More than once."
)


@click.command("verify", epilog="Example: scratchlab verify exports/first")
@click.argument("exported", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--trust-code", is_flag=True, help="Execute the code that DIR brings, if it does.")
@as_json
@ends_cleanly
def verify_export(exported: Path, trust_code: bool, as_json: bool) -> None:
    """Is DIR, which export made, still what was proved? On any machine, without the run.

    Its files are compared by their hashes, and what transformers makes of them with what proof.json recorded. The parts
    that differ are named; the exit code is then 1.
    """
    from scratchlab.errors import RunError
    from scratchlab.interop.proof import verify

    report = verify(exported, trust_code)
    show(report, as_json, _verify_text)
    if not report["passed"]:
        parts = [part for part, check in report["checks"].items() if not check["passed"]]
        raise RunError(f"{exported} is not what was proved: {', '.join(parts)}. Export or download it again.")


def _verify_text(report: dict[str, Any]) -> str:
    run, width = report["run"], max(map(len, report["checks"]))
    lines = [f"{report['path']}, {report['class']}, of the run {run['name']} (fingerprint {run['fingerprint'][:12]})"]
    for part, check in report["checks"].items():
        lines.append(f"  {'ok   ' if check['passed'] else 'WRONG'}  {part:<{width}}  {check['said']}")
    return "\n".join(lines)


@click.command("publish", epilog="Example: scratchlab publish runs/first me/first --license mit --dry-run")
@click.argument("run")
@click.argument("name", metavar="USER/NAME")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--custom", is_flag=True, help="Bring the model's own code: for what transformers has no class for.")
@click.option("--private/--public", default=True, show_default=True, help="Who may see it.")
@click.option("--dry-run", is_flag=True, help="Export and prove it, say what would go, and send nothing.")
@click.option("--revision", "branch", default="main", show_default=True, metavar="BRANCH", help="Where it goes.")
@click.option("--tag", metavar="NAME", help="A name for what is published now.")
@click.option("--checkpoints", is_flag=True, help="Each snapshot too, on a branch named for its step.")
@license_option
@languages_option
@as_json
@ends_cleanly
def publish_model(
    run: str,
    name: str,
    at: Literal["final", "best"],
    custom: bool,
    private: bool,
    dry_run: bool,
    branch: str,
    tag: str | None,
    checkpoints: bool,
    license: str | None,
    languages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Put RUN on the Hugging Face Hub as the model USER/NAME, private unless told otherwise, with its proof and a card.

    What fails its proof is not published. Run again, it goes on where it stopped: what is there is not sent again. Log
    in by `hf auth login`, or set HF_TOKEN.
    """
    from scratchlab.interop.card import About
    from scratchlab.interop.publish import Wish, publish_run
    from scratchlab.runfolder import RunFolder
    from scratchlab.study.origin import origin_of

    folder = RunFolder.open(run)
    about = About(load_as=name, license=license, languages=languages, studies=origin_of(folder))
    wish = Wish(
        name=name,
        at=at,
        custom=custom,
        private=private,
        branch=branch,
        tag=tag,
        checkpoints=checkpoints,
        dry_run=dry_run,
    )
    report = publish_run(folder, wish, about, lambda line: click.echo(line, err=True))
    show(report, as_json, _publish_text)


def _publish_text(report: dict[str, Any]) -> str:
    seen = "private" if report["private"] else "public"
    verb = "would go to" if report["dry_run"] else "is on"
    lines = [f"{report['run']} {verb} the Hub as {report['to']}, {seen}" + _tagged(report)]
    for version in report["versions"]:
        size = f"{version['bytes'] / 1e6:,.1f} MB"
        if report["dry_run"]:
            lines += [f"  {version['branch']}: {count(len(version['files']), 'file')}, {size}"]
            lines += [f"    {file['name']:<28}{file['size']:>16,} bytes" for file in version["files"]]
            continue
        sent, kept = count(len(version["sent"]), "file"), len(version["kept"])
        lines.append(f"  {version['branch']} at {version['commit'][:12]}: {sent} sent, {kept} there already ({size})")
        if stated := [*filter(None, [version["license_kept"]]), *version["languages_kept"]]:
            lines.append(f"    as the card there said before, and still does: {', '.join(stated)}")
    return "\n".join(lines)


def _tagged(report: dict[str, Any]) -> str:
    return f", tagged {report['tag']}" if report["tag"] else ""
