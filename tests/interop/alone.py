"""What a fresh process with transformers would do, in this one, which has imported it already: a proof takes less."""

import contextlib
import io
import sys
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from scratchlab.interop import anybody, proof


@contextlib.contextmanager
def in_process() -> Generator[None]:
    """Proofs start no process."""

    def run_here(command: list[str], **_: Any) -> Any:
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
            patch.setitem(sys.modules, "scratchlab", None)
            status = anybody.main(*command[3:])
        return SimpleNamespace(returncode=status, stderr=said.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "subprocess", SimpleNamespace(run=run_here))
        yield
