"""The line that installs missing packages adds them to the scratchlab that is here, wherever it came from."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from scratchlab import extras
from scratchlab.errors import MissingExtraError

CLONE = json.dumps({"url": "file:///home/ann/my%20lab", "dir_info": {"editable": True}})
FOLDER = json.dumps({"url": "file:///srv/scratchlab", "dir_info": {}})
GIT = json.dumps({"url": "https://example.org/lab.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}})
WHEEL = json.dumps({"url": "https://example.org/scratchlab-0.1.0-py3-none-any.whl", "archive_info": {}})


@pytest.mark.parametrize(
    ("noted", "words"),
    [
        (None, ["scratchlab[gguf]"]),
        (CLONE, ["--editable", "/home/ann/my lab[gguf]"]),
        (FOLDER, ["/srv/scratchlab[gguf]"]),
        (GIT, ["scratchlab[gguf] @ git+https://example.org/lab.git@ab12"]),
        (WHEEL, ["scratchlab[gguf] @ https://example.org/scratchlab-0.1.0-py3-none-any.whl"]),
    ],
)
def test_pip_is_asked_for_the_same_scratchlab_with_the_extra(noted: str | None, words: list[str]) -> None:
    assert shlex.split(extras.requirement("gguf", noted)) == words


def test_sources_on_pythons_path_are_installed_from_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", none)
    root = str(Path(__file__).parents[1])
    assert shlex.split(extras.requirement("gguf", extras.origin())) == [f"{root}[gguf]"]


def test_only_what_is_missing_is_asked_for() -> None:
    extras.require("This", "gguf", "json", "shlex")
    with pytest.raises(MissingExtraError, match=r"^This needs more packages: pip install .*\[gguf\]'?$"):
        extras.require("This", "gguf", "json", "no_package_has_this_name")
