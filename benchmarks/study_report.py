"""How fast is the report of a large study, and how large? 50 arms x 10 blocks of runs with 10,000 steps each.

    python benchmarks/study_report.py [--steps 10000] [--out benchmarks/results/study_report.json]

The runs are written, not trained (about 0.7 GB in a temporary folder); then the report is gathered and both pages are
written, as `scratchlab study report` does. The bars: 10 seconds, 10 MB.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the studies on paper that the tests make

from scratchlab.files import write_atomically  # noqa: E402
from scratchlab.hardware import environment  # noqa: E402
from scratchlab.study.definition import load_study  # noqa: E402
from scratchlab.study.report import report_study  # noqa: E402
from scratchlab.study.report_markdown import to_markdown  # noqa: E402
from scratchlab.study.report_page import to_html  # noqa: E402
from tiny_reports import lines_of, noisy, run_on_paper  # noqa: E402
from tiny_study import load, write_baseline  # noqa: E402

ARMS, BLOCKS = 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = write_study(Path(place), options.steps)
        measured = measure(path) | {"runs": ARMS * BLOCKS, "steps": options.steps, "environment": environment("cpu")}
    print(json.dumps(measured, indent=2))
    if options.out:
        write_atomically(options.out, json.dumps(measured, indent=2) + "\n")


def write_study(place: Path, steps: int) -> Path:
    write_baseline(place)
    arms = {f"dropout-{i}": {"model.dropout": i / 100} for i in range(1, ARMS)}
    study = load(place, {"interventions": arms}, looks=[BLOCKS])
    run_on_paper(study, noisy(), metrics=lines_of(steps, 2.0, every=steps // 100))
    return study.path


def measure(path: Path) -> dict[str, Any]:
    began, busy = time.perf_counter(), time.process_time()
    report = report_study(load_study(path))
    gathered = time.perf_counter()
    page, text = to_html(report), to_markdown(report)
    ended = time.perf_counter()
    return {
        "seconds": round(ended - began, 2),
        "seconds_gathering": round(gathered - began, 2),
        "cpu_seconds": round(time.process_time() - busy, 2),
        "page_megabytes": round(len(page.encode()) / 1e6, 2),
        "markdown_megabytes": round(len(text.encode()) / 1e6, 2),
    }


if __name__ == "__main__":
    main()
