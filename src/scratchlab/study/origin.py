"""Which study a run belongs to: what its model card says of where it comes from."""

import csv
from pathlib import Path

from scratchlab.errors import ScratchlabError
from scratchlab.runfolder import Record, RunFolder
from scratchlab.study.definition import read_study_file
from scratchlab.study.folder import figure


def origin_of(folder: RunFolder) -> list[Record]:
    """The studies whose results have this run: studies that lie beside one another share their runs.

    Of each its name, its metric, the arm and the block of the run, and how many runs it has.
    """
    runs, result = folder.path.absolute().parent, folder.result()
    if result is None:
        return []
    places = [runs, *list(runs.parents)[:2]]  # a study file says where its runs lie, mostly in the folder beside it
    files = [path for place in places for path in sorted(place.glob("*.toml"))]
    return [found for path in files if (found := _as_in(path, folder, result)) is not None]


def _as_in(path: Path, folder: RunFolder, result: Record) -> Record | None:
    """The run as one study has it; None if the file is no study, or its table does not have this run."""
    table = path.with_suffix("") / "table.csv"
    if not table.is_file():
        return None
    try:
        study = read_study_file(path).study
        value = figure(result, study.metric)
    except (ScratchlabError, KeyError, TypeError, ValueError):
        return None
    if (path.parent / study.runs).resolve() != folder.path.absolute().parent.resolve():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = {f"seed_{role}": str(seed) for role, seed in folder.manifest()["seeds"].items()}
    for row in rows:
        if row.get(study.metric) == repr(value) and seeds.items() <= row.items():
            own = {"study": path.stem, "metric": study.metric, "runs": len(rows)}
            return own | {"arm": row["arm"], "block": row["block"]}
    return None
