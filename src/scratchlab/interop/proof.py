"""Proof that an export computes what the run does: transformers alone, in a process of its own, beside the run.

`prove` compares logits, a text written greedily, texts to tokens and back, and the number of parameters, and writes
proof.json beside the weights. With it goes what a later `verify` compares with, on any machine and without the run: the
hash of every file, a few hundred logits, the text, the tokens of hard strings.

All is computed on the CPU in float32, whatever the run was trained in.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from scratchlab import __version__
from scratchlab.errors import RunError, UnfinishedError
from scratchlab.extras import require
from scratchlab.files import disk_errors, own_folder, pretty_json, sha256_of_file, stops, write_atomically
from scratchlab.interop import anybody
from scratchlab.interop.expected import (
    HELD_OUT,
    LOADED,
    SPOKEN,
    TIE,
    TRAINING,
    Expected,
    Floats,
    expected_of,
    from_record,
    in_float32,
    recorded,
)
from scratchlab.interop.files import read_json
from scratchlab.interop.names import listed
from scratchlab.interop.proof_files import FORMAT_VERSION, PROOF, check_files, hashed_files, read_proof
from scratchlab.interop.proof_weights import check_weights, sums_of
from scratchlab.model.count import parameter_count
from scratchlab.model.gpt import GPT
from scratchlab.model.load import At
from scratchlab.runfolder import BASE, Record, RunFolder

LARGEST, MEAN = 1e-4, 1e-5
"""What the largest and the mean difference of logits may be, as shares of the largest logit."""
NAMES = {
    "library": "Python's own documentation",
    "random": "random tokens",
    HELD_OUT: "held-out text of its corpus",
    TRAINING: "text of the training split of its corpus (there is no other)",
    "cover": "tokens of the whole vocabulary",
}
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
ALONE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

Checks = dict[str, Record]
"""By part: whether it `passed`, what is `said` of it, and its figures."""


def prove(exported: Path, folder: RunFolder, at: At | int = "final", beneath: GPT | None = None) -> Record:
    """Compare the export in the folder `exported` with the run, and write its proof.json; gives its content.

    `beneath` is what the run's adapters go beside, in float32, where that was exported. RunError names every part in
    which they differ; then nothing is written. UnfinishedError where it could not be compared; MissingExtraError
    without transformers.
    """
    require("Proving that an export is right", "transformers", "transformers")
    ours, code = beneath or in_float32(folder, at), needs_code(exported)
    expected = expected_of(folder, ours)
    answers, logits = ask_anybody(exported, expected.order, code)
    checks = compare(expected, answers, logits, exported)
    if failed := failures(checks):
        raise RunError(
            f"The export of {folder.path} is not what the run is, when transformers loads it. {' '.join(failed)} "
            "Nothing was kept of it."
        )
    manifest, loaded = folder.manifest(), answers["loading"]
    proof: Record = {
        "format_version": FORMAT_VERSION,
        "class": loaded["class"],
        "needs_code": code,
        "run": {
            "name": folder.path.absolute().name,
            "fingerprint": manifest["fingerprint"],
            "at": BASE if beneath else at,
            "parameters": parameter_count(ours.config, ours.vocab_size),
        },
        "software": {"scratchlab": __version__, "transformers": loaded["transformers"], "torch": loaded["torch"]},
        "tolerance": {"largest": LARGEST, "mean": MEAN, "of": "the largest logit", "tie": TIE},
        "checks": checks,
        "files": {name: sha256_of_file(exported / name) for name in hashed_files(exported)},
        "reference": recorded(expected) | {"parameters": loaded["parameters"], "weights": sums_of(exported)},
    }
    write_atomically(exported / PROOF, _numbers_in_lines(pretty_json(proof)))
    return proof


def _numbers_in_lines(pretty: str) -> str:
    """JSON whose lists of numbers take a line each, and not one a number. (No text in JSON has a newline.)"""
    return re.sub(r'\[\n[^][{}"]*\]', lambda found: f"[{' '.join(found[0][1:-1].split())}]", pretty)


def verify(exported: Path, trust_code: bool = False) -> Record:
    """Compare a folder with the proof.json in it: its files by their hashes, and what transformers makes of them.

    Gives `passed`, and the checks by part. RunError where there is no proof to compare with, and for a folder that
    brings code, which is executed only with `trust_code`, and only if it is what was proved. UnfinishedError where it
    could not be compared.
    """
    require("Verifying an export", "transformers", "transformers")
    proof, code = read_proof(exported), needs_code(exported)
    if code and not trust_code:
        raise RunError(
            f"{exported} brings code of its own, which transformers would have to execute. If you trust where it comes "
            "from: scratchlab verify --trust-code."
        )
    try:
        expected, files = from_record(proof["reference"]), check_files(exported, proof["files"])
        weights = check_weights(exported, proof["reference"]["weights"])
        parameters = int(proof["reference"]["parameters"])
        about = {name: proof[name] for name in ("class", "run", "software")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{exported / PROOF} is damaged ({type(error).__name__}: {error}). Export or download it again."
        ) from None
    checks = _verified(exported, expected, code, {"files": files, "weights": weights}, parameters)
    return {"path": str(exported), "passed": not failures(checks), **about, "checks": checks}


def _verified(exported: Path, expected: Expected, code: bool, read: Checks, parameters: int) -> Checks:
    """What is found of all parts; of those that were `read` alone, where files are wrong and the rest cannot or must
    not be tried."""
    files = read["files"]

    def alone(why: str) -> Checks:
        return read | {"files": {**files, "said": f"{files['said']}; the rest was not tried: {why}"}}

    if code and not files["passed"]:
        return alone("it would execute the code that the folder brings, which may not be what was proved")
    try:
        answers, logits = ask_anybody(exported, expected.order, code)
    except UnfinishedError as error:
        if files["passed"]:
            raise
        return alone(str(error).removesuffix("."))
    return read | compare(expected, answers, logits, exported, parameters)


def failures(checks: Mapping[str, Record]) -> list[str]:
    """What is said of the parts that failed, a sentence each."""
    return [f"{part}: {check['said']}." for part, check in checks.items() if not check["passed"]]


def needs_code(exported: Path) -> bool:
    """Whether the model or its tokenizer is of a class that comes with it."""
    configs = [exported / name for name in ("config.json", "tokenizer_config.json")]
    return any("auto_map" in path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file())


def ask_anybody(exported: Path, order: Record, code: bool) -> tuple[Record, dict[str, Floats]]:
    """What transformers makes of a folder, in a fresh process: answers, with what failed, and logits by sequence.

    UnfinishedError where something outside put a stop to it, such as a full disk or want of memory.
    """
    temporary = Path(tempfile.gettempdir())
    with (
        disk_errors(temporary, "What is compared with transformers (TMPDIR says where)"),
        own_folder(temporary, "scratchlab-proof-") as place,
    ):
        asked, answered, computed = (place / file for file in ("order.json", "answers.json", "logits.safetensors"))
        asked.write_text(json.dumps(order | {"code": code, "outside": stops()}), encoding="utf-8")
        files = [str(path.absolute()) for path in (exported, asked, answered, computed)]
        kept = {key: value for key, value in os.environ.items() if key not in SECRET}
        own = {"HF_MODULES_CACHE": str(place), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        with _lifeline() as lifeline:
            outcome = subprocess.run(
                [sys.executable, "-P", anybody.__file__, *files],
                env={**kept, **QUIET, **ALONE, **own},
                stdin=lifeline,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        if outcome.returncode or not answered.is_file():
            raise _unfinished(outcome.returncode, outcome.stderr.strip().splitlines())
        answers = read_json(answered)
        return answers, {key: x.numpy() for key, x in load_file(computed).items()} if computed.is_file() else {}


@contextlib.contextmanager
def _lifeline() -> Generator[int]:
    """What is read from it ends when this process does, however it ends."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def _unfinished(status: int, said: Sequence[str]) -> Exception:
    """Why a process gave no answers: for what reason of the system's, or else how it ended."""
    last = said[-1] if said else "nothing was said"
    if status == anybody.OUTSIDE:
        return OSError(int(last), os.strerror(int(last)))
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
    return UnfinishedError(
        f"The process in which transformers loads what is compared {ended} ({last}). That says nothing against it. "
        "Most likely memory was short: free some, and run the same command again."
    )


# Comparing.


def compare(
    expected: Expected, answers: Record, logits: Mapping[str, Floats], exported: Path, parameters: int | None = None
) -> Checks:
    """Every part of what transformers made of a folder, beside what is expected.

    `parameters` is how many there were when it was proved.
    """
    failed = answers["failures"]
    checks: Checks = {part: {"passed": False, "said": said} for part, said in failed.items()}
    if "loading" in answers:
        checks["loading"] = _check_loading(answers["loading"], expected)
        checks["parameters"] = _check_parameters(answers["loading"]["parameters"], exported, parameters)
    if "logits" in answers:
        checks["logits"] = _check_logits(expected, logits)
    if "generation" in answers:
        checks["generation"] = _check_writing(answers["generation"], expected.order["written"])
    if "tokenizer" in answers:
        checks["tokenizer"] = _check_tokenizer(answers["tokenizer"], expected)
    return {part: checks[part] for part in PARTS if part in checks}


PARTS = ("loading", "logits", "generation", "tokenizer", "parameters")


def _check_loading(loaded: Record, expected: Expected) -> Record:
    """That every tensor found its place, and that writing goes and ends as it should."""
    wrong = [f"{kind} {listed(loaded[kind])}" for kind in ("missing", "unexpected", "mismatched") if loaded[kind]]
    wrong += _other_facts({**loaded, "ends": sorted(loaded["ends"])}, expected, LOADED)
    by = f"transformers {loaded['transformers']} as {loaded['class']}"
    said = f"loaded by {by}, every tensor in its place" if not wrong else f"loaded by {by}, but {'; '.join(wrong)}"
    return {"passed": not wrong, "said": said}


def _check_logits(expected: Expected, logits: Mapping[str, Floats]) -> Record:
    """The largest and the mean difference, of each sequence."""
    figures = {
        name: _differences(wanted, _asked_for(logits[name], expected)) for name, wanted in expected.logits.items()
    }
    figures["cover"] = _differences(expected.cover, logits["cover"])
    said = [
        f"{NAMES.get(name, name)}: at most {one['largest']:.1e}, on average {one['mean']:.1e} "
        f"(the largest logit is {one['largest_logit']:.1f}; {_counted(one)})"
        if one["largest"] is not None
        else f"{NAMES.get(name, name)}: not comparable"
        for name, one in figures.items()
    ]
    allowed = f"allowed are {LARGEST:g} and {MEAN:g} of the largest logit"
    passed = all(one["passed"] for one in figures.values())
    return {"passed": passed, "said": f"differences from {'; '.join(said)}; {allowed}", "sequences": figures}


def _counted(one: Record) -> str:
    positions, tokens = one["positions"], one["tokens"]
    return (
        f"{positions:,} positions of {tokens:,} tokens" if tokens > 1 else f"{positions:,} positions, of a token each"
    )


def _asked_for(found: Floats, expected: Expected) -> Floats:
    """The logits of the tokens that were recorded; nothing where there are not as many as the tokenizer has symbols."""
    if found.shape[-1] != expected.facts["symbols"]:
        return found[:, :0]
    return found if expected.columns is None else found[:, list(expected.columns)]


def _differences(wanted: Floats, found: Floats) -> Record:
    """Of one sequence; None where what was found has another shape or is not finite."""
    comparable = found.shape == wanted.shape and bool(np.isfinite(found).all())
    apart = np.abs(found - wanted) if comparable else np.full(1, np.nan)
    largest, mean, scale = float(apart.max()), float(apart.mean()), float(np.abs(wanted).max())
    return {
        "passed": largest <= LARGEST * scale and mean <= MEAN * scale,
        "largest": largest if math.isfinite(largest) else None,
        "mean": mean if math.isfinite(mean) else None,
        "largest_logit": scale,
        "positions": len(wanted),
        "tokens": wanted.shape[-1],
    }


def _check_writing(written: Record, texts: Sequence[Record]) -> Record:
    """The likeliest tokens, one after another."""
    ties, parted, asked = written["ties"], written["parted"], sum(len(text["tokens"]) for text in texts)
    many = f" in {len(texts)} texts" if len(texts) > 1 else ""
    said = f"of {asked} tokens written greedily{many} with its cache all are the same"
    if ties:
        said += f", {len(ties)} of them where the two likeliest lie within {TIE:g}"
    if parted:
        apart = "it ended there" if parted["gap"] is None else f"where the two logits lie {parted['gap']:.1e} apart"
        said = f"what it writes greedily parts at token {parted['token'] + 1} of {asked}, {apart}"
    return {
        "passed": parted is None,
        "said": said,
        "tokens": asked,
        "texts": len(texts),
        "ties": ties,
        "parted": parted,
    }


def _check_tokenizer(spoken: Record, expected: Expected) -> Record:
    """Texts to tokens and back, and what its special tokens are."""
    texts, wrong = expected.order["texts"], _other_facts(spoken, expected, SPOKEN)
    parted = [name for name, row in expected.ids.items() if spoken["ids"][name] != row]
    changed = [name for name, text in expected.texts.items() if spoken["texts"][name] != text and name not in parted]
    wrong += [f"{len(parted)} texts have other tokens, as {texts[parted[0]][:40]!r}"] if parted else []
    wrong += [f"{len(changed)} texts come back changed, as {texts[changed[0]][:40]!r}"] if changed else []
    exact = sum(expected.texts[name] == text for name, text in texts.items())
    said = f"{len(texts)} hard and ordinary texts have the same tokens, and {exact} of them come back unchanged"
    return {"passed": not wrong, "said": "; ".join(wrong) or said, "texts": len(texts), "unchanged": exact}


def _other_facts(found: Record, expected: Expected, names: Sequence[str]) -> list[str]:
    wanted = expected.facts
    return [f"{name} is {found[name]}, not {wanted[name]}" for name in names if found[name] != wanted[name]]


def _check_parameters(theirs: int, exported: Path, proved: int | None) -> Record:
    """As the Hub counts them: the numbers in the safetensors files, by what their headers say."""
    hub = hub_count(exported)
    passed = hub == theirs and proved in (None, theirs)
    before = "" if proved in (None, theirs) else f"; there were {proved:,} when it was proved"
    said = f"{hub:,} as the Hub counts them, {theirs:,} in the model that transformers built{before}"
    return {"passed": passed, "said": said, "hub": hub, "transformers": theirs}


def hub_count(exported: Path) -> int:
    """Parameters as the Hub counts them. A file that is no safetensors has none."""
    return sum(_numbers_in(path) for path in sorted(exported.glob("*.safetensors")))


def _numbers_in(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(size, 2**27)))
            return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, AttributeError):
            return 0
