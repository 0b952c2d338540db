"""Small texts, made in memory, that every test of corpora can build on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from letters import story

settings.register_profile("steady", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("steady")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Write a file below `tmp_path` and give its path as a command would."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_file


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """A folder of 30 letters, by hash more than enough for three splits."""
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.md").write_text(story(number), encoding="utf-8")
    return str(folder)
