"""A SkyPilot task: a study on a rented spot machine, which goes on from its checkpoints when the machine is taken away.

What the study writes lies in a bucket, mounted with a cache (MOUNT_CACHED), for run folders append and rename, which
other mounts refuse. A bucket passes no locks on, so one machine works on it at a time; it may have many GPUs.
"""

import hashlib
import json
import platform
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from scratchlab import __version__
from scratchlab.errors import UsageError
from scratchlab.study.definition import Study

WORKDIR = "~/sky_workdir"  # where SkyPilot puts the current folder
BUCKET = "/scratchlab"
ACCELERATORS = re.compile(r"[A-Za-z0-9._-]+(:(?P<count>[1-9][0-9]*))?")

TEMPLATE = """\
# A scratchlab study on a spot machine, for SkyPilot:
#
#     sky jobs launch {file}
#
# A managed job: when the machine is taken away, another is found, and the runs go on from their last checkpoints in the
# bucket. Afterwards: sky storage ls, and fetch {bucket} with the tool of the cloud.
name: {name}

resources:
  accelerators: {accelerators}
  use_spot: true
{infra}
num_nodes: 1  # a bucket passes no locks on: two machines would train the same runs

workdir: .

file_mounts:
  {mount}:
    name: {bucket}
    mode: MOUNT_CACHED  # run folders append to files and rename folders
    config:
      mount_cached:
        transfers: 1  # files arrive in the order in which they were written
{corpora}
setup: |
  {install}

run: |
  set -e
  mkdir -p {mount}/runs {mount}/study "$(dirname {runs})"
  rm -rf {runs} {folder}  # what came along from elsewhere: what was settled there fits that machine
  ln -s {mount}/runs {runs}
  ln -s {mount}/study {folder}
  scratchlab study run {study} --workers {workers}
"""


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """What of a study lies where, relative to the folder that the command is run in."""

    study: Path
    folder: Path
    runs: Path
    corpora: tuple[str, ...]
    """As recipes name them."""
    owner: str = ""
    """Of one person's study: names of buckets are shared by all the world."""


def study_files(study: Study) -> StudyFiles:
    """What of a study another machine needs: the corpora of its baseline and of arms that have others."""
    changed = [arm.changes.get(field) for arm in study.arms for field in ("corpus", "evaluation.corpus")]
    named = [study.baseline.corpus, study.baseline.evaluation.corpus, *changed]
    corpora = tuple(dict.fromkeys(str(path) for path in named if path))
    owner = hashlib.sha256(f"{platform.node()} {study.path.absolute()}".encode()).hexdigest()[:8]
    return StudyFiles(study.path, study.folder, study.runs, corpora, owner)


def task_file(files: StudyFiles, file: str, accelerators: str = "H100:1", cloud: str | None = None) -> str:
    """The task as YAML; `file` is what it will be called. `UsageError` for what cannot be sent to another machine.

    `accelerators` as SkyPilot writes them (`H100:8`), `cloud` as it names infrastructure (`aws`, `gcp/us-central1`);
    None: the cheapest that the person has access to.
    """
    found = ACCELERATORS.fullmatch(accelerators)
    if not found:
        raise UsageError(f"--accelerators {accelerators}: should be a kind and how many, such as H100:1 or A10G:4.")
    for path in (files.study, files.folder, files.runs):
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"{path} lies outside this folder, which is what is sent. Run the command further up.")
    name = re.sub(r"[^a-z0-9]+", "-", files.study.stem.lower()).strip("-") or "study"
    return TEMPLATE.format(
        file=file,
        name=json.dumps(name),
        bucket="-".join(filter(None, ("scratchlab", name, files.owner))),
        accelerators=json.dumps(accelerators),
        infra=f"  infra: {json.dumps(cloud)}\n" if cloud else "",
        mount=BUCKET,
        corpora="".join(f"  {json.dumps(_there(path))}: {json.dumps(path)}\n" for path in files.corpora),
        install=_install(Path()),
        runs=_quoted(files.runs),
        folder=_quoted(files.folder),
        study=_quoted(files.study),
        workers=int(found["count"] or 1),
    )


def _there(path: str) -> str:
    """Where a recipe will look for its corpus on that machine. (What git ignores is not sent with the folder.)"""
    if Path(path).is_absolute():
        return path
    if ".." in Path(path).parts:
        raise UsageError(f"{path}: a corpus above this folder has no place on another machine. Name it by a full path.")
    return f"{WORKDIR}/{Path(path).as_posix()}"


def _install(here: Path) -> str:
    """This very scratchlab, if the folder that is sent is its own; else the one of this version."""
    project = here / "pyproject.toml"
    if project.is_file() and 'name = "scratchlab"' in project.read_text(encoding="utf-8"):
        return "pip install ."
    return f"pip install scratchlab=={__version__}"


def _quoted(path: Path) -> str:
    return shlex.quote(path.as_posix())
