"""Cards of runs that were not exported, beside a proof that nobody made."""

from pathlib import Path
from typing import Any

from scratchlab.interop.card import About, write_card
from scratchlab.runfolder import Record, RunFolder

PROOF: Record = {
    "class": "GPT2LMHeadModel",
    "needs_code": False,
    "run": {"name": "run", "at": "final", "parameters": 4},
    "software": {"scratchlab": "0", "transformers": "5", "torch": "2"},
    "checks": {"parameters": {"hub": 5, "said": "5 as the Hub counts them"}},
    "files": {"config.json": "0"},
    "reference": {"sequences": {"library": [1]}},
}


def body_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def card_of(run: RunFolder, folder: Path, **about: Any) -> str:
    folder.mkdir()
    write_card(folder, run, PROOF, About(**{"load_as": "me/mine", **about}))
    return body_of(folder)
