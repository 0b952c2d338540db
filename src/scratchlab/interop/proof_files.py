"""The files of a proof: which it covers, what is in proof.json, and what else export writes that has none."""

from collections.abc import Mapping
from pathlib import Path

from scratchlab.errors import RunError
from scratchlab.files import sha256_of_file
from scratchlab.interop.files import read_json
from scratchlab.runfolder import Record

PROOF, CARD, CHARTS = "proof.json", "README.md", "charts"
BESIDE = (PROOF, CARD, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
BESIDE_FOLDERS = (CHARTS, ".git", ".cache")
"""What changes nothing about what is loaded: it may be written and changed after the proof."""
FORMAT_VERSION = 3
OTHERS = {
    "adapter_config.json": "it holds adapters. What they go beside is verified by `scratchlab verify {0}/base`; they "
    "were read back and compared when they were written, and compared.json has the hashes of both.",
    "model.gguf": "it is for llama.cpp. It was read back and compared to the bit when it was written, and nothing was "
    "recorded to compare with. `scratchlab import {0} --out RUN` makes a run of it, which can be evaluated.",
    "model.onnx": "it is for onnxruntime. Its logits were compared when it was written, and compared.json says how far "
    "they differed. `scratchlab import {0} --out RUN` makes a run of it, which can be evaluated.",
}
"""What export writes besides, by a file in it."""


def read_proof(exported: Path, earlier: bool = False) -> Record:
    """The content of the proof.json in a folder; of an `earlier` format too, whose `files` and `run` are the same.

    RunError if there is none that can be read here.
    """
    if not (exported / PROOF).is_file():
        raise RunError(f"{exported} has no {PROOF}: {_without_proof(exported)}")
    proof = read_json(exported / PROOF)
    version = proof.get("format_version")
    if version != FORMAT_VERSION and not (earlier and version in range(1, FORMAT_VERSION)):
        raise RunError(
            f"{exported / PROOF} has format version {version!r}; this scratchlab reads {FORMAT_VERSION}. Verify it "
            "with the scratchlab that made it, or export the run again with this one."
        )
    return proof


def _without_proof(exported: Path) -> str:
    """What such a folder is, and what of it can be verified."""
    for file, what in OTHERS.items():
        if (exported / file).is_file():
            return what.format(exported)
    return "it is no folder that scratchlab export or publish made."


def check_files(exported: Path, proved: Mapping[str, str]) -> Record:
    """Every file by its hash; one that was not there when it was proved may change what is loaded."""
    there = hashed_files(exported)
    wrong = [f"{name} is missing" for name in proved if name not in there]
    wrong += [
        f"{name} is not the file that was proved: its SHA-256 is another"
        for name, sha256 in proved.items()
        if name in there and sha256_of_file(exported / name) != sha256
    ]
    wrong += [f"{name} was not there when it was proved" for name in there if name not in proved]
    said = "; ".join(wrong) or f"{len(proved)} files have the hashes of the proof"
    return {"passed": not wrong, "said": said}


def hashed_files(exported: Path) -> list[str]:
    """The files that decide what is loaded from a folder, by their names in it."""
    files = (path.relative_to(exported) for path in sorted(exported.rglob("*")) if not path.is_dir())
    return [path.as_posix() for path in files if path.parts[0] not in BESIDE_FOLDERS and path.as_posix() not in BESIDE]
