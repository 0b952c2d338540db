"""The SkyPilot task file, as far as YAML tells. SkyPilot itself is asked by `make skypilot`."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from scratchlab.cli.study_export import export
from scratchlab.errors import UsageError
from scratchlab.study.skypilot import StudyFiles, task_file

STUDY = Path("studies/My Study.toml")
FILES = StudyFiles(STUDY, STUDY.with_suffix(""), Path("studies/runs"), ("corpora/mine", "/data/wide"), "ab12")


def written(**more: Any) -> dict[str, Any]:
    return yaml.safe_load(task_file(FILES, "mine.yaml", **more))


def test_a_spot_machine_with_what_the_study_needs() -> None:
    task = written(accelerators="H100:8", cloud="gcp/us-central1")
    assert task["name"] == "my-study"
    assert task["resources"] == {"accelerators": "H100:8", "use_spot": True, "infra": "gcp/us-central1"}
    assert task["num_nodes"] == 1
    assert task["workdir"] == "."
    mounts = task["file_mounts"]
    assert mounts.pop("~/sky_workdir/corpora/mine") == "corpora/mine"
    assert mounts.pop("/data/wide") == "/data/wide"
    ((where, bucket),) = mounts.items()
    assert bucket["name"] == "scratchlab-my-study-ab12"
    assert bucket["mode"] == "MOUNT_CACHED"
    assert f"ln -s {where}/runs studies/runs" in task["run"]
    assert f"ln -s {where}/study 'studies/My Study'" in task["run"]
    assert "scratchlab study run 'studies/My Study.toml' --workers 8" in task["run"]


def test_where_nothing_is_said_sky_finds_the_cheapest() -> None:
    assert written()["resources"] == {"accelerators": "H100:1", "use_spot": True}


@pytest.mark.parametrize("project", ["scratchlab", "other"])
def test_the_folder_that_is_sent_may_be_scratchlabs_own(
    project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text(f'[project]\nname = "{project}"\n', encoding="utf-8")
    install = written()["setup"].strip()
    assert install == "pip install ." if project == "scratchlab" else install.startswith("pip install scratchlab==")


@pytest.mark.parametrize("accelerators", ["", "H100:0", "H100:two", "H100; rm"])
def test_accelerators_that_are_none(accelerators: str) -> None:
    with pytest.raises(UsageError, match="such as H100:1"):
        written(accelerators=accelerators)


@pytest.mark.parametrize(
    "files",
    [
        StudyFiles(Path("../mine.toml"), Path("../mine"), Path("../runs"), ()),
        StudyFiles(Path("/studies/mine.toml"), Path("/studies/mine"), Path("/studies/runs"), ()),
        StudyFiles(Path("mine.toml"), Path("mine"), Path("runs"), ("../corpora/mine",)),
    ],
)
def test_what_cannot_be_sent_is_refused(files: StudyFiles) -> None:
    with pytest.raises(UsageError, match="folder"):
        task_file(files, "mine.yaml")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = '[study]\nbaseline = "base.toml"\nmetric = "test.bits_per_byte"\nsmallest_effect = 0.01\n'
    other = '[interventions.wide]\ncorpus = "corpora/wide"\n[interventions.dropout]\n"model.dropout" = 0.1\n'
    fixed = 'corpus = "corpora/mine"\n[evaluation]\ncorpus = "corpora/fixed"\n[training]\nsteps = 4\n'
    Path("base.toml").write_text(fixed, encoding="utf-8")
    Path("mine.toml").write_text(study + other, encoding="utf-8")
    outcome = CliRunner().invoke(export, ["mine.toml", "--skypilot", "out.yaml"], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "sky jobs launch out.yaml" in outcome.output
    mounts = yaml.safe_load(Path("out.yaml").read_text(encoding="utf-8"))["file_mounts"]
    assert [source for source in mounts.values() if isinstance(source, str)] == [
        "corpora/mine",
        "corpora/fixed",
        "corpora/wide",
    ]
