"""Proofs: an export that is the run passes, alone, elsewhere and later; whatever is changed about it is named."""

import contextlib
import errno
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import others
import pytest
import torch
from alone import in_process
from click.testing import CliRunner
from exported import assert_readable
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scratchlab.cli.interop import export_model
from scratchlab.cli.publish import verify_export
from scratchlab.corpus.chat import CHATML
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import RunError, UnfinishedError
from scratchlab.files import stops
from scratchlab.interop import anybody, exports, proof
from scratchlab.interop.expected import LOADED, SPOKEN, expected_of, from_record, in_float32, recorded
from scratchlab.interop.exports import export_run, write_run
from scratchlab.interop.hard_strings import HARD, hard_strings
from scratchlab.interop.proof import compare, hub_count, prove, read_proof, verify
from scratchlab.runfolder import Record, RunFolder
from tiny_run import make_run


def quieted(model: nn.Module) -> None:
    """As trained models are, whose first norm sees small numbers: there its epsilon matters."""
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            parameter.data.mul_(0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    tokenizer = others.make_tokenizer().with_specials(["<|im_start|>", "<|im_end|>"])
    place = tmp_path_factory.mktemp("proof")
    return make_run(place / "run", tokenizer, CHATML, quieted, context_length=240, bias=False)


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Path:
    """An export with its proof: one for all tests, which costs a process that imports transformers."""
    export_run(run, run.path.parent / "export")
    return run.path.parent / "export"


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_an_export_is_proved_by_transformers_alone(exported: Path) -> None:
    content = read_proof(exported)
    checks = content["checks"]
    assert list(checks) == ["loading", "logits", "generation", "tokenizer", "parameters"]
    assert all(check["passed"] for check in checks.values())
    assert checks["logits"]["sequences"].keys() == {"library", "random", "cover"}
    cover = checks["logits"]["sequences"].pop("cover")
    assert (cover["positions"], cover["tokens"]) == (2 * 240, 1), "each of 282 tokens, and the first ones again"
    assert 0 < cover["mean"] <= cover["largest"] < 1e-4
    for figures in checks["logits"]["sequences"].values():
        assert (figures["positions"], figures["tokens"]) == (240, others.SYMBOLS + 2)
        assert 0 < figures["mean"] <= figures["largest"] < 1e-4
    assert (checks["generation"]["tokens"], checks["generation"]["parted"]) == (200, None)
    (text,) = content["reference"]["written"]
    assert len(set(text["tokens"])) > 20, "a text that repeats one token would prove little"
    assert checks["tokenizer"]["texts"] == checks["tokenizer"]["unchanged"] == len(HARD) + 1
    weights = load_file(exported / "model.safetensors")
    assert checks["parameters"]["hub"] == sum(tensor.numel() for tensor in weights.values())
    assert (exported / "proof.json").read_text(encoding="utf-8").count("\n") < 400
    files = {path.name for path in exported.iterdir()}
    assert content["files"].keys() == files - {"proof.json", "README.md"}
    assert content["reference"]["conversation"] is not None


def test_all_may_read_what_is_written(exported: Path, run: RunFolder) -> None:
    assert_readable(exported)
    assert_readable(run.path)


def test_what_was_proved_is_verified_without_the_run(copy: Path, run: RunFolder) -> None:
    """Through the command; what is beside the model may be changed."""
    (copy / "LICENSE").write_text("MIT", encoding="utf-8")
    (copy / "README.md").write_text("mine", encoding="utf-8")
    moved = run.path.rename(run.path.with_name("gone"))
    try:
        with in_process():
            outcome = CliRunner().invoke(verify_export, [str(copy), "--json"])
    finally:
        moved.rename(run.path)
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert report["passed"]
    assert list(report["checks"]) == ["files", "weights", "loading", "logits", "generation", "tokenizer", "parameters"]
    assert report["checks"]["logits"]["sequences"]["random"]["positions"] == 8


def flip_a_byte(folder: Path) -> None:
    """In the exponent of a weight of the middle of the file."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2 // 4 * 4 + 3] ^= 0x02
    (folder / "model.safetensors").write_bytes(content)


def swap_the_tokenizer(folder: Path) -> None:
    other = train_tokenizer(f"bpe:{others.SYMBOLS}", ["another text, of other words, " * 40 + others.TEXT[:200]])
    text = other.with_specials(["<|im_start|>", "<|im_end|>"]).to_json()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def change_the_epsilon(folder: Path) -> None:
    change_json(folder / "config.json", lambda config: config.update(layer_norm_epsilon=1e-6))


def forge(folder: Path) -> None:
    """Whoever changes a file can change its hash in the proof too."""
    hashes = {name: proof.sha256_of_file(folder / name) for name in proof.hashed_files(folder)}
    change_json(folder / "proof.json", lambda content: content.update(files=hashes))


def change_what_is_hardly_used(folder: Path) -> None:
    """The tokens that neither stand in what was recorded nor have a logit there, but for those of the cover."""
    weights, reference = load_file(folder / "model.safetensors"), read_proof(folder)["reference"]
    used = {token for row in reference["sequences"].values() for token in row} | {*reference["columns"]}
    used |= {token for text in reference["written"] for token in (*text["prompt"], *text["tokens"])}
    rows = weights["transformer.wte.weight"]
    free = [token for token in range(len(rows)) if token not in used]
    assert len(free) > 20
    rows[free] = -0.5 * rows[free] + 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def swap_two_numbers(folder: Path) -> None:
    """Which leaves their sum as it was, and that of their squares."""
    weights = load_file(folder / "model.safetensors")
    matrix = weights["transformer.h.1.mlp.c_fc.weight"]
    matrix[0, 0], matrix[0, 1] = matrix[0, 1].item(), matrix[0, 0].item()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def in_json(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / name, lambda content: content.update(changes))


def reword_later_turns(folder: Path) -> None:
    def change(config: Record) -> None:
        start = "{%- for message in messages -%}"
        assert start in config["chat_template"]
        config["chat_template"] = config["chat_template"].replace(
            start, start + "{% if loop.index > 1 %}EVIL{% endif %}"
        )

    change_json(folder / "tokenizer_config.json", change)


TAMPERED: dict[str, tuple[Callable[[Path], None], str, set[str]]] = {
    "flipped-byte": (flip_a_byte, "model.safetensors", {"weights", "logits", "generation"}),
    "rare-tokens": (change_what_is_hardly_used, "model.safetensors", {"weights", "logits"}),
    "swapped-numbers": (swap_two_numbers, "model.safetensors", {"weights", "logits", "generation"}),
    "other-end": (in_json("config.json", eos_token_id=5), "config.json", {"loading"}),
    "short-texts": (in_json("generation_config.json", max_length=7), "generation_config.json", {"loading"}),
    "hot-texts": (
        in_json("generation_config.json", temperature=9.0, do_sample=True),
        "generation_config.json",
        {"loading"},
    ),
    "cut-prompts": (in_json("tokenizer_config.json", model_max_length=3), "tokenizer_config.json", {"tokenizer"}),
    "later-turns": (reword_later_turns, "tokenizer_config.json", {"tokenizer"}),
    "swapped-tokenizer": (swap_the_tokenizer, "tokenizer.json", {"tokenizer"}),
    "norm-epsilon": (change_the_epsilon, "config.json", {"logits", "generation"}),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_named_even_where_the_hashes_were_forged(kind: str, copy: Path) -> None:
    tamper, file, parts = TAMPERED[kind]
    tamper(copy)
    checked = proof.check_files(copy, read_proof(copy)["files"])
    assert checked["said"] == f"{file} is not the file that was proved: its SHA-256 is another"
    forge(copy)
    with in_process():
        report = verify(copy)
    failed = {part for part, check in report["checks"].items() if not check["passed"]}
    assert failed & {"files"} == set()
    assert failed >= parts - {"generation"}
    assert failed <= parts


def test_the_command_names_the_parts_and_fails(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "added_tokens.json").write_text("{}", encoding="utf-8")
    (copy / "generation_config.json").unlink()
    failed = {"failures": {"loading": "ValueError: there is no such model"}}, dict[str, Any]()
    monkeypatch.setattr(proof, "ask_anybody", lambda *_: failed)
    outcome = CliRunner().invoke(verify_export, [str(copy)])
    assert isinstance(outcome.exception, RunError)
    assert str(outcome.exception).startswith(f"{copy} is not what was proved: files, loading. ")
    assert "WRONG  files    generation_config.json is missing; added_tokens.json was not there when" in outcome.output
    assert "WRONG  loading  ValueError: there is no such model" in outcome.output


def test_an_export_that_fails_its_proof_leaves_nothing(run: RunFolder, tmp_path: Path) -> None:
    """As if a head had been tied that is not, and biases had been left where they were."""

    def write_another(folder: RunFolder, to: Path, *how: Any) -> None:
        write_run(folder, to, *how)
        weights = load_file(to / "model.safetensors")
        weights["transformer.h.1.mlp.c_fc.weight"] = weights["transformer.h.1.mlp.c_fc.weight"].flip(0).contiguous()
        del weights["transformer.h.0.ln_1.bias"]
        save_file(weights, to / "model.safetensors", {"format": "pt"})

    with in_process(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "write_run", write_another)
        outcome = CliRunner().invoke(export_model, [str(run.path), "--to", str(tmp_path / "deep/out")])
    assert isinstance(outcome.exception, RunError)
    said = str(outcome.exception)
    assert "loading: loaded by transformers" in said
    assert "but missing transformer.h.0.ln_1.bias" in said
    assert "logits: differences from Python's own documentation: at most" in said
    assert "parameters:" in said
    assert list(tmp_path.iterdir()) == []


def test_scratchlab_cannot_be_imported_where_an_export_is_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    """Nor does one failure hide another."""
    order = {"code": False, "texts": {}, "conversation": None, "outside": []}
    (tmp_path / "order.json").write_text(json.dumps(order), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "scratchlab", sys.modules["scratchlab"])
    files = [str(tmp_path / name) for name in ("order.json", "answers.json", "logits.safetensors")]
    anybody.main(str(tmp_path), *files)
    with pytest.raises(ImportError):
        importlib.import_module("scratchlab")
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert answers["failures"].keys() == {"tokenizer", "loading"}
    assert all(re.fullmatch(r"\w+Error: .+", said) for said in answers["failures"].values())


def stand_in(path: Path, program: str, patch: pytest.MonkeyPatch) -> Path:
    """A program that runs, in a process of its own, where transformers would be asked."""
    path.write_text(program, encoding="utf-8")
    patch.setattr(proof.anybody, "__file__", str(path))
    return path


KILLED = "import os, sys; sys.stderr.write('loading\\n'); sys.stderr.flush(); os.kill(os.getpid(), 9)"


def test_a_process_that_is_killed_says_nothing_against_an_export(
    copy: Path, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory, most likely: neither an export nor a download is told to be wrong."""
    stand_in(tmp_path / "killed.py", KILLED, monkeypatch)
    said = r"was killed by signal 9 \(loading\)\. That says nothing against it.*free some.*run the same command again"
    with pytest.raises(UnfinishedError, match=said):
        verify(copy)
    with pytest.raises(UnfinishedError, match=said):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    flip_a_byte(copy)
    report = verify(copy)
    assert (list(report["checks"]), report["passed"]) == (["files", "weights"], False)
    assert "its SHA-256 is another; the rest was not tried: " in report["checks"]["files"]["said"]


LASTING = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("anybody", {anybody!r})
anybody = importlib.util.module_from_spec(spec)
spec.loader.exec_module(anybody)
anybody.end_with_parent()
open({pid!r} + ".new", "w").write(str(os.getpid()))
os.rename({pid!r} + ".new", {pid!r})
time.sleep(60)
"""


def test_the_process_ends_with_the_one_that_asks(tmp_path: Path) -> None:
    """Killed, that one cannot end it; it would go on computing for nobody."""
    pid, lasting = tmp_path / "pid", tmp_path / "lasting.py"
    lasting.write_text(LASTING.format(anybody=anybody.__file__, pid=str(pid)), encoding="utf-8")
    program = f"""
from pathlib import Path
from scratchlab.interop import proof
proof.anybody.__file__ = {str(lasting)!r}
proof.ask_anybody(Path("none"), {{}}, False)
"""
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)}) as asking:
        until(pid.exists)
        asking.kill()
    until(lambda: not runs(int(pid.read_text())))


def test_the_program_itself_ends_when_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "order")  # it waits for its content for ever
    command = [sys.executable, "-P", anybody.__file__, "none", str(tmp_path / "order"), "answers", "logits"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=20)
    assert ended.returncode == 1


def until(what: Callable[[], bool]) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("that was waited for in vain")


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its entry."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def no_file_larger(bytes_: int) -> Generator[None]:
    """As on a disk that is full: what is written beyond that fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_for_the_comparison_says_nothing_against_an_export(copy: Path) -> None:
    """The logits do not find room; safetensors says so in words of its own."""
    place = re.escape(tempfile.gettempdir())
    said = rf"could not be written to {place}: File too large .*raise the limit.*run the same command again"
    with in_process(), no_file_larger(2_000), pytest.raises(UnfinishedError, match=said):
        proof.ask_anybody(
            copy, {**NOTHING, "sequences": {"long": [1] * 200}, "positions": {"long": [*range(200)]}}, False
        )


def test_a_full_disk_says_nothing_against_an_export(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "none", full], check=False, capture_output=True
    ).returncode:
        pytest.skip("nothing can be mounted here")
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    order = {**NOTHING, "sequences": {"long": [1] * 200}, "positions": {"long": [*range(200)]}}
    try:
        with in_process(), pytest.raises(UnfinishedError, match=rf"{full}: No space left on device .*Free some space"):
            proof.ask_anybody(copy, order, code=False)
    finally:
        subprocess.run(["umount", full], check=True)


NOTHING: Record = {"texts": {}, "conversation": None, "sequences": {}, "positions": {}, "written": [], "tie": 0}
NOTHING |= {"cover": [[0]], "at_once": 1}
"""To ask of an export."""


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "no space"), errno.ENOSPC),
        (SafetensorError("Error: No space left on device (os error 28)"), errno.ENOSPC),
        (
            RuntimeError("DefaultCPUAllocator: you tried to allocate 9 bytes. Error code 12 (Cannot allocate)"),
            errno.ENOMEM,
        ),
        (MemoryError(), errno.ENOMEM),
        (FileNotFoundError(errno.ENOENT, "no such file"), None),
        (SafetensorError("Error while deserializing header: invalid header"), None),
        (ValueError("there is no such model"), None),
    ],
)
def test_what_lies_outside_is_told_from_what_lies_in_an_export(error: Exception, number: int | None) -> None:
    assert anybody.outside(error, stops()) == number
    wrapped = ValueError("it could not be loaded")
    wrapped.__cause__ = error
    assert anybody.outside(wrapped, stops()) == number


def test_the_process_knows_no_token_and_asks_no_hub(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[3], 'w'))"
    stand_in(tmp_path / "tell.py", program, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen, _ = proof.ask_anybody(exported, {}, code=False)
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert not any("hf_secret" in value for value in seen.values())


EMPTIED: Record = {name: {"library": [], "random": []} for name in ("sequences", "positions", "logits")}
EMPTIED |= {"columns": [], "cover": [], "cover_logits": [], "written": [], "texts": {}}

# What counts as the same, in this process.


def answer(model: nn.Module, prompt: list[int], wanted: list[int], tie: float = 1e-4) -> Record:
    return anybody.write(model, prompt, wanted, tie)


class Counting(nn.Module):
    """After token n comes n + 1; after 3, either of 4 and 7, which lie `gap` apart: cached 7, uncached 4."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap
        self.generation_config = type("Settings", (), {"eos_token_id": 9})()

    def forward(self, tokens: Tensor) -> Any:
        logits = nn.functional.one_hot((tokens + 1) % 10, 10) * 20.0
        logits[..., 7] += (tokens == 3) * (20.0 - self.gap)
        return type("Output", (), {"logits": logits})()

    def generate(self, tokens: Tensor, max_new_tokens: int, **_: Any) -> Tensor:
        assert self.generation_config.eos_token_id is None
        written = tokens[0].tolist()
        for _ in range(max_new_tokens):
            written.append(7 if written[-1] == 3 else (written[-1] + 1) % 10)
        return torch.tensor([written])


def test_texts_may_part_only_at_ties() -> None:
    wanted = [1, 2, 3, 4, 5, 6, 7]
    tied = answer(Counting(5e-5), [0], wanted)
    assert (tied["identical"], tied["parted"], [tie["token"] for tie in tied["ties"]]) == (7, None, [3])
    apart = answer(Counting(1e-2), [0], wanted)
    assert (apart["identical"], apart["parted"]["token"]) == (3, 3)
    assert apart["parted"]["gap"] == pytest.approx(1e-2, rel=1e-3)
    assert answer(Counting(1e-2), [4], [5, 6, 7, 8, 9, 0, 1]) == {"identical": 7, "ties": [], "parted": None}


def test_texts_are_compared_one_after_another() -> None:
    texts = [{"prompt": [0], "tokens": [1, 2, 3]}, {"prompt": [1], "tokens": [2, 3, 4]}]
    tied = anybody.write_all(Counting(5e-5), texts, 1e-4)
    assert (tied["identical"], tied["parted"], [tie["token"] for tie in tied["ties"]]) == (6, None, [5])
    parted = anybody.write_all(Counting(1e-2), [*texts, {"prompt": [4], "tokens": [5]}], 1e-4)
    assert (parted["identical"], parted["parted"]["token"], parted["ties"]) == (5, 5, [])


@pytest.mark.parametrize(("context", "texts"), [(240, 1), (64, 5), (2, 200)])
def test_200_tokens_are_written_however_short_the_context_is(context: int, texts: int, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", others.make_tokenizer(), context_length=context)
    written = expected_of(run, in_float32(run, "final")).order["written"]
    assert (sum(len(text["tokens"]) for text in written), len(written)) == (200, texts)
    assert len({tuple(text["prompt"]) for text in written}) == texts or context == 2
    assert all(len(text["prompt"]) + len(text["tokens"]) <= context for text in written)


@pytest.mark.parametrize("mask", [False, True])
def test_a_text_that_ends_is_followed_by_others(mask: bool, tmp_path: Path) -> None:
    """Here the end of text is likely after some tokens, as in models that were trained on short documents."""
    tokenizer = others.make_tokenizer()
    end = tokenizer.end_of_text
    assert end is not None

    plain = make_run(tmp_path / "plain", tokenizer, context_length=240)
    (text,) = expected_of(plain, in_float32(plain, "final")).order["written"]

    def ending(model: nn.Module) -> None:
        rows = dict(model.named_parameters())["token_embedding.weight"].data
        rows[end] = 1.05 * rows[text["tokens"][90]]

    run = make_run(tmp_path / "run", tokenizer, None, ending, context_length=240, document_mask=mask)
    with in_process():
        write_run(run, tmp_path / "out", custom=mask)
        checks = prove(tmp_path / "out", run)["checks"]
    texts = read_proof(tmp_path / "out")["reference"]["written"]
    assert any(end in text["tokens"] for text in texts)
    assert sum(len(text["tokens"]) for text in texts) == checks["generation"]["tokens"] == 200
    assert (len(texts) > 1) == mask == (f"in {len(texts)} texts" in checks["generation"]["said"])


def test_a_cache_that_goes_wrong_is_not_taken_for_a_tie() -> None:
    """What is written without it would be right; the two tokens lie far apart."""
    broken = Counting(15.0)
    assert answer(broken, [0], [1, 2, 3, 4])["parted"]["token"] == 3


@pytest.mark.parametrize("spec", ["char", "byte", "bpe:280"])
def test_hard_strings_are_what_a_tokenizer_can_say(spec: str) -> None:
    tokenizer = train_tokenizer(spec, [others.TEXT])
    texts = hard_strings(tokenizer)
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)
    assert set(texts) == set(HARD) if spec != "char" else len(texts) > 10


@pytest.fixture(scope="module")
def passed(run: RunFolder) -> tuple[Any, Record, dict[str, Any]]:
    """What is expected of a run, and the answers that would be right."""
    expected = expected_of(run, in_float32(run, "final"))
    loaded = {"missing": [], "unexpected": [], "mismatched": [], "parameters": 0}
    loaded |= {name: expected.facts[name] for name in LOADED}
    loaded |= {"transformers": "5", "torch": "2", "class": "GPT2LMHeadModel"}
    spoken = {name: expected.facts[name] for name in SPOKEN}
    answers: Record = {
        "failures": {},
        "loading": loaded,
        "logits": {},
        "generation": {"identical": 200, "ties": [], "parted": None},
        "tokenizer": {**spoken, "ids": dict(expected.ids), "texts": dict(expected.texts)},
    }
    return expected, answers, {**expected.logits, "cover": expected.cover}


WRONG: dict[str, tuple[str, Callable[[Record, dict[str, Any]], object]]] = {
    "a rare logit off": ("logits", lambda _, logits: logits["cover"].__setitem__(7, 1e3)),
    "a number more": ("parameters", lambda answers, _: answers["loading"].update(parameters=1)),
    "a tensor made up": ("loading", lambda answers, _: answers["loading"].update(missing=["h.0.weight"])),
    "no end": ("loading", lambda answers, _: answers["loading"].update(ends=[])),
    "another text": ("tokenizer", lambda answers, _: answers["tokenizer"]["texts"].update({"3": "Hello , world !"})),
    "another token": ("tokenizer", lambda answers, _: answers["tokenizer"]["ids"].update({"3": [1]})),
    "a symbol more": ("tokenizer", lambda answers, _: answers["tokenizer"].update(symbols=283)),
    "no end of text": ("tokenizer", lambda answers, _: answers["tokenizer"].update(end_of_text=None)),
    "another conversation": ("tokenizer", lambda answers, _: answers["tokenizer"].update(conversation=[1])),
    "a logit off": ("logits", lambda _, logits: logits.update(random=logits["random"] + 2e-4 * 50)),
    "no number": ("logits", lambda _, logits: logits.update(random=logits["random"] * np.nan)),
    "padding": ("logits", lambda _, logits: logits.update(random=np.pad(logits["random"], ((0, 0), (0, 6))))),
    "a failure": ("generation", lambda answers, _: answers["failures"].update(generation=answers.pop("generation"))),
}


@pytest.mark.parametrize("what", [None, *WRONG])
def test_each_part_fails_by_itself(what: str | None, passed: Any, tmp_path: Path) -> None:
    expected, right, logits = passed
    answers, found = json.loads(json.dumps(right)), {name: row.copy() for name, row in logits.items()}
    part, change = WRONG[what] if what else (None, lambda *_: None)
    change(answers, found)
    checks = compare(expected, answers, found, tmp_path)
    assert [name for name, check in checks.items() if not check["passed"]] == ([part] if part else [])


@pytest.mark.parametrize(
    ("rule", "split", "name", "said"),
    [
        ("auto", "validation", "held_out", "held-out text of its corpus:"),
        ("contiguous:1,0,0", "train", "training", "text of the training split of its corpus (there is no other):"),
    ],
)
def test_its_own_text_is_compared_and_not_recorded(rule: str, split: str, name: str, said: str, tmp_path: Path) -> None:
    """And is called what it is."""
    from scratchlab.corpus.build import build_corpus

    (tmp_path / "text.txt").write_text(others.TEXT * 12 + "zebra", encoding="utf-8")
    corpus = build_corpus([str(tmp_path / "text.txt")], tmp_path / "corpus", "char", rule)
    run = make_run(tmp_path / "run", corpus.tokenizer, context_length=32)
    at = {"path": str(corpus.path), "sha256": corpus.sha256}
    change_json(run.path / "manifest.json", lambda manifest: manifest.update(evaluation_corpus=at))
    expected = expected_of(run, in_float32(run, "final"))
    assert corpus.tokenizer.decode(expected.order["sequences"][name]) == corpus.text(split)[:32]
    assert said in proof._check_logits(expected, {**expected.logits, "cover": expected.cover})["said"]
    kept = recorded(expected)
    assert not {name} & {*kept["sequences"], *kept["positions"], *kept["logits"], *kept["texts"]}
    again = from_record(json.loads(json.dumps(kept)))
    assert again.facts == expected.facts
    assert again.order["sequences"].keys() == {"library", "random"}
    at["sha256"] = "another"
    change_json(run.path / "manifest.json", lambda manifest: manifest.update(evaluation_corpus=at))
    assert expected_of(run, in_float32(run, "final")).logits.keys() == {"library", "random"}


def test_the_hub_counts_what_the_headers_say(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(())}, tmp_path / "one.safetensors", {"format": "pt"})
    save_file({"c": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 40)
    assert hub_count(tmp_path) == 6 + 1 + 4


def test_code_that_came_with_a_folder_is_executed_only_when_it_is_trusted(copy: Path) -> None:
    change_json(copy / "config.json", lambda config: config.update(auto_map={"AutoConfig": "a.B"}))
    (copy / "a.py").write_text("raise SystemExit", encoding="utf-8")
    with pytest.raises(RunError, match=r"brings code of its own.*--trust-code"):
        verify(copy)


def test_code_that_is_not_what_was_proved_is_not_executed_even_if_it_is_trusted(copy: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        change_json(copy / name, lambda config: config.update(auto_map={"AutoConfig": "a.B", "AutoTokenizer": "a.C"}))
    (copy / "a.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')", encoding="utf-8")
    with in_process():
        report = verify(copy, trust_code=True)
    assert not (tmp_path / "executed").exists()
    assert (list(report["checks"]), report["passed"]) == (["files", "weights"], False)
    said = report["checks"]["files"]["said"]
    assert "a.py was not there when it was proved; the rest was not tried: it would execute the code" in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: content.update(format_version=9), "format version 9"),
        (
            lambda content: content.update(format_version=2),
            "format version 2; .*the scratchlab that made it, or export",
        ),
        (
            lambda content: content["reference"].update(EMPTIED),
            "lacks a part of its sequences; columns; cover; written; texts",
        ),
        (lambda content: content["reference"]["sequences"].pop("library"), "damaged .KeyError: .library."),
        (lambda content: content["reference"]["positions"]["random"].pop(), "lacks a part of its positions"),
        (lambda content: content["reference"]["cover"].pop(), "lacks a part of its cover"),
        (lambda content: content["reference"]["written"][0]["tokens"].pop(), "lacks a part of its written"),
        (lambda content: content["reference"].pop("weights"), "damaged .KeyError: 'weights'.*Export or download it"),
        (lambda content: content.pop("files"), "damaged .KeyError: 'files'"),
        (lambda content: content["reference"]["columns"].append(1), "the logits of 'library' are not those of"),
    ],
)
def test_a_proof_that_cannot_be_read_is_said(change: Any, complaint: str, copy: Path) -> None:
    change_json(copy / "proof.json", change)
    with pytest.raises(RunError, match=complaint):
        verify(copy)


def test_what_was_published_before_may_have_an_earlier_proof(copy: Path) -> None:
    change_json(copy / "proof.json", lambda content: content.update(format_version=1))
    assert read_proof(copy, earlier=True)["run"]["name"] == "run"
    change_json(copy / "proof.json", lambda content: content.update(format_version=9))
    with pytest.raises(RunError, match="format version 9"):
        read_proof(copy, earlier=True)


def test_a_folder_without_a_proof_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no proof.json: it is no folder that scratchlab export"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.gguf", r"it is for llama.cpp.*scratchlab import {} --out RUN"),
        ("model.onnx", r"it is for onnxruntime.*compared.json.*scratchlab import {} --out RUN"),
        ("adapter_config.json", r"it holds adapters.*scratchlab verify {}/base"),
    ],
)
def test_of_other_formats_it_is_said_what_can_be_verified(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=said.format(re.escape(str(tmp_path)))):
        verify(tmp_path)


def test_a_recurrent_network_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", others.make_tokenizer(), architecture="rnn")
    with pytest.raises(RunError, match="recurrent network"):
        prove(tmp_path, run)
