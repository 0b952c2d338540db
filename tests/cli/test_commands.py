"""The commands as a person uses them, in a real process where exit codes and streams matter, in this one elsewhere."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli, main, run_command
from scratchlab.errors import ScratchlabError


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with writing of one's own, a corpus of it and two finished runs."""
    folder = tmp_path_factory.mktemp("workplace")
    rng = random.Random(1)
    (folder / "writing").mkdir()
    for number in range(12):
        words = rng.choices(["every", "effort", "moves", "you", "toward", "finding", "an", "ideal"], k=300)
        (folder / f"writing/{number}.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    (folder / "tiny.toml").write_text(
        f"""
        corpus = "{folder}/corpora/mine"
        [model]
        n_layer = 1
        n_head = 2
        d_model = 16
        context_length = 16
        [training]
        steps = 12
        global_batch_size = 4
        checkpoint_every = 5
        [evaluation]
        every = 6
        sample_tokens = 8
        [execution]
        device = "cpu"
        threads = 1
        """,
        encoding="utf-8",
    )
    run(["corpus", "build", f"{folder}/writing", "--out", f"{folder}/corpora/mine", "--tokenizer", "char"])
    run(["train", f"{folder}/tiny.toml", "--out", f"{folder}/runs/first"])
    run(["train", f"{folder}/tiny.toml", "--out", f"{folder}/runs/second", "model.dropout=0.1", "seeds.init=2"])
    return folder


def run(arguments: list[str]) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `evaluate` keeps its results."""
    monkeypatch.chdir(tmp_path)


def loss_of(arguments: list[str]) -> dict[str, Any]:
    """What `evaluate` says of the only model."""
    (model,) = json.loads(run(arguments).stdout)["models"]
    return model["loss"]


def fail(arguments: list[str]) -> ScratchlabError:
    with pytest.raises(ScratchlabError) as caught:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return caught.value


def test_train_says_what_came_of_it(workplace: Path) -> None:
    text = run(["show", f"{workplace}/runs/first"]).output
    for part in ("finished, step 12 of 12", "test ", "bits/byte", "n = ", "tokens/s", "charts", "it writes"):
        assert part in text
    assert {path.name for path in (workplace / "runs/first/charts").iterdir()} == {
        "gradient_norm.png",
        "learning_rate.png",
        "loss.png",
    }


def test_result_is_what_evaluate_says(workplace: Path) -> None:
    shown = json.loads(run(["show", f"{workplace}/runs/first", "--json"]).output)["result"]
    for split in ("test", "validation"):
        again = loss_of(["evaluate", f"{workplace}/runs/first", "--split", split, "--json"])
        assert again["nats_per_token"] == shown[split]["nats_per_token"]
        assert again["bits_per_byte_error"] == shown[split]["bits_per_byte_error"]


def test_best_weights_can_be_asked_for(workplace: Path) -> None:
    shown = json.loads(run(["show", f"{workplace}/runs/first", "--json"]).output)["result"]
    arguments = ["evaluate", f"{workplace}/runs/first", "--split", "validation", "--at", "best", "--json"]
    assert loss_of(arguments)["nats_per_token"] == shown["best_validation"]["nats_per_token"]


def test_the_same_recipe_gives_the_same_run(workplace: Path) -> None:
    run(["train", f"{workplace}/tiny.toml", "--out", f"{workplace}/runs/again"])
    first, again = workplace / "runs/first", workplace / "runs/again"
    assert (first / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    weights = "checkpoints/step-00000012/tensors.safetensors"
    assert (first / weights).read_bytes() == (again / weights).read_bytes()
    assert json.loads(run(["runs", "diff", str(first), str(again), "--json"]).output)["same_fingerprint"]
    run(["runs", "delete", str(again), "--yes"])
    assert not again.exists()


def test_sample_is_reproducible_and_goes_on_from_the_prompt(workplace: Path) -> None:
    arguments = ["sample", f"{workplace}/runs/first", "--prompt", "every", "--max-tokens", "20", "--top-k", "5"]
    assert run(arguments).output == run(arguments).output
    assert run(arguments).output.startswith("every")
    assert run([*arguments, "--seed", "2"]).output != run(arguments).output
    asked = json.loads(run([*arguments, "--json"]).output)
    assert "every" + asked["text"] + "\n" == run(arguments).output


def test_runs_are_listed_and_compared(workplace: Path) -> None:
    listed = json.loads(run(["runs", "list", f"{workplace}/runs", "--json"]).output)["runs"]
    assert [Path(each["run"]).name for each in listed] == ["first", "second"]
    assert "first" in run(["runs", "list", f"{workplace}/runs"]).output
    differing = json.loads(
        run(["runs", "diff", f"{workplace}/runs/first", f"{workplace}/runs/second", "--json"]).output
    )
    assert differing["recipe"] == {"model.dropout": [0.0, 0.1], "seeds.init": [1, 2]}
    assert not differing["same_fingerprint"]
    assert "test.bits_per_byte" in differing["results"]


def test_delete_asks_first(workplace: Path) -> None:
    answer = CliRunner().invoke(cli, ["runs", "delete", f"{workplace}/runs/first"], input="n\n")
    assert answer.exit_code == 1
    assert (workplace / "runs/first/result.json").exists()


def test_schema_knows_every_section() -> None:
    schema = json.loads(run(["recipe", "schema"]).output)
    assert {"corpus", "model", "training", "evaluation", "seeds", "execution"} <= set(schema["properties"])


def test_mistakes_are_told_with_a_remedy(workplace: Path) -> None:
    recipe = f"{workplace}/tiny.toml"
    assert "did you mean model.n_layer" in str(fail(["recipe", "check", recipe, "model.n_layers=2"]))
    assert "exists already" in str(fail(["train", recipe, "--out", f"{workplace}/runs/first"]))
    assert "--resume DIR" in str(fail(["train", recipe]))
    assert "is not a run folder" in str(fail(["show", f"{workplace}/runs/frist"]))
    assert "runs/first" in str(fail(["show", f"{workplace}/runs/frist"]))
    assert "it has train" in str(fail(["evaluate", f"{workplace}/runs/first", "--split", "dev"]))
    assert "'Ω'" in str(fail(["sample", f"{workplace}/runs/first", "--prompt", "Ω"]))
    assert "cuda" in str(fail(["train", recipe, "--out", f"{workplace}/runs/x", "execution.device=cuda:9"]))
    assert "tf32" in str(fail(["train", recipe, "--out", f"{workplace}/runs/x", "training.precision=tf32"]))
    assert "context_length" in str(
        fail(["train", recipe, "--out", f"{workplace}/runs/x", "model.context_length=99999"])
    )
    assert not (workplace / "runs/x").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "nowhere"], 1),
        (["recipe", "check", "nowhere.toml"], 2),
        (["train"], 2),
        (["nonsense"], 2),
        (["sample", "nowhere", "--temperature", "-1"], 2),
    ],
)
def test_a_mistake_exits_with_its_code_and_no_traceback(arguments: list[str], code: int) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "scratchlab", *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == code
    assert re.search("^Error: ", process.stderr, re.MULTILINE)
    assert "Traceback" not in process.stderr


def test_compile_without_a_compiler(workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = fail(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run", "execution.compile=true"])
    assert "this machine has no C++ compiler" in str(message)
    run(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run"])


def test_a_tied_head_drawn_too_large_is_noticed_and_the_cause_named(workplace: Path, tmp_path: Path) -> None:
    arguments = ["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run", "model.initialization=book"]
    result = CliRunner().invoke(cli, [*arguments, "model.d_model=64"])
    said = result.output + result.stderr
    assert re.search(r"Warning: the first loss is \d+\.\d+, where ln\(vocabulary\) is", said)
    assert "model.tie_weights" in said
    assert "model.initialization" in said


def test_a_disk_too_small_is_refused_before_training(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("scratchlab.training.start.shutil.disk_usage", lambda path: Usage)
    assert "of disk for its checkpoints" in str(fail(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


# What once went wrong.


def test_a_corpus_is_no_run_and_is_not_deleted_as_one(workplace: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "project", tmp_path / "corpus"):
        folder.mkdir()
        (folder / "manifest.json").write_text('{"format_version": 1}', encoding="utf-8")
        assert "is not a run folder" in str(fail(["runs", "delete", str(folder), "--yes"]))
        assert (folder / "manifest.json").exists()


def test_weights_of_a_damaged_checkpoint_are_not_replaced_in_silence(workplace: Path, tmp_path: Path) -> None:
    folder = f"{tmp_path}/run"
    run(["train", f"{workplace}/tiny.toml", "--out", folder])
    good = json.loads(run(["evaluate", folder, "--json"]).stdout)
    newest = sorted(Path(folder, "checkpoints").iterdir())[-1] / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    for command in (["evaluate", folder], ["sample", folder]):
        message = str(fail(command))
        assert f"{newest} is damaged" in message
        assert f"train --resume {folder}" in message
    run(["train", "--resume", folder])
    assert json.loads(run(["evaluate", folder, "--json"]).stdout) == good


def test_two_damaged_checkpoints_do_not_push_out_new_ones(workplace: Path, tmp_path: Path) -> None:
    folder = f"{tmp_path}/run"
    run(["train", f"{workplace}/tiny.toml", "--out", folder])
    kept = sorted(Path(folder, "checkpoints").iterdir())
    for checkpoint in kept:
        (checkpoint / "tensors.safetensors").write_bytes(b"")
    Path(folder, "result.json").unlink()
    run(["train", "--resume", folder])
    assert sorted(Path(folder, "checkpoints").iterdir()) == kept
    run(["evaluate", folder])


@pytest.mark.parametrize("name", ["resolved.json", "tokenizer.json"])
def test_a_run_whose_files_were_changed_is_refused(workplace: Path, tmp_path: Path, name: str) -> None:
    folder = f"{tmp_path}/run"
    run(["train", f"{workplace}/tiny.toml", "--out", folder])
    path = Path(folder, name)
    if name == "resolved.json":
        resolved = json.loads(path.read_text(encoding="utf-8"))
        resolved["training"]["learning_rate"] *= 2
        path.write_text(json.dumps(resolved), encoding="utf-8")
        Path(folder, "result.json").unlink()
        assert "fingerprint" in str(fail(["train", "--resume", folder]))
    else:
        path.write_text(path.read_text(encoding="utf-8").replace('"e"', '"E"', 1) + " ", encoding="utf-8")
        assert "is not the tokenizer of this run" in str(fail(["sample", folder]))


def test_another_corpus_in_the_old_ones_place_scores_nothing(workplace: Path, tmp_path: Path) -> None:
    text, corpus, folder = tmp_path / "text.txt", tmp_path / "corpus", f"{tmp_path}/run"
    for turn, word in enumerate(("hello there ", "other words ")):
        text.write_text(word * 400, encoding="utf-8")
        build = ["corpus", "build", str(text), "--out", str(corpus), "--tokenizer", "byte"]
        if turn == 0:
            run(build)
            run(["train", f"{workplace}/tiny.toml", "--out", folder, f"corpus={corpus}"])
        else:
            shutil.rmtree(corpus)
            run(build)
            assert "is not the corpus that" in str(fail(["evaluate", folder]))
            run(["evaluate", folder, "--corpus", str(corpus)])


def test_a_run_that_diverges_says_so_and_writes_only_json(workplace: Path, tmp_path: Path) -> None:
    folder = f"{tmp_path}/run"
    arguments = ["train", f"{workplace}/tiny.toml", "--out", folder, "training.learning_rate=1e30"]
    CliRunner().invoke(cli, [*arguments, "training.clip_norm=0.0", "model.norm=none"])
    for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert "not finite" in str(fail(["sample", folder]))
    assert loss_of(["evaluate", folder, "--json"])["nats_per_token"] is None
    assert "not finite" in run(["evaluate", folder]).stdout


def test_a_damaged_run_does_not_hide_the_others(workplace: Path, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        run(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/runs/{name}"])
    Path(tmp_path, "runs/bad/resolved.json").write_text("{", encoding="utf-8")
    listed = run(["runs", "list", f"{tmp_path}/runs"]).stdout
    assert re.search(r"bad\s+damaged", listed)
    assert re.search(r"good\s+finished", listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "there is no such device"),
        (["--device", "cuda:x"], "there is no such device"),
        (["--stop", ""], "a stop text must not be empty"),
    ],
)
def test_odd_options_of_sample_are_refused(workplace: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    run(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run"])
    assert message in str(fail(["sample", f"{tmp_path}/run", *arguments]))
    run(["sample", f"{tmp_path}/run", "--temperature", "1e-40", "--max-tokens", "5"])


def test_a_run_too_long_for_any_machine_is_refused(workplace: Path, tmp_path: Path) -> None:
    start = ["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run"]
    assert "2^63" in str(fail([*start, "training.epochs=1e308"]))
    assert "threads" in str(fail([*start, "execution.threads=99999999999"]))
    assert not Path(tmp_path, "run").exists()


def test_all_overrides_that_are_none_are_named_at_once(workplace: Path) -> None:
    message = str(fail(["recipe", "check", f"{workplace}/tiny.toml", "foo", "bar", "training.steps=3"]))
    assert "'foo', 'bar'" in message


def test_a_damaged_token_is_named_as_such(workplace: Path, tmp_path: Path) -> None:
    text, corpus = tmp_path / "text.txt", tmp_path / "corpus"
    text.write_text("hello there " * 400, encoding="utf-8")
    run(["corpus", "build", str(text), "--out", str(corpus), "--tokenizer", "char"])
    shard = corpus / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100:102] = b"\xff\xff"
    shard.write_bytes(content)
    message = str(fail(["train", f"{workplace}/tiny.toml", "--out", f"{tmp_path}/run", f"corpus={corpus}"]))
    assert "corpus verify" in message


def test_what_the_system_refuses_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scratchlab", "import", "x" * 300, "--out", "never"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert re.fullmatch(r"Error: x+/adapter_config\.json: File name too long\.\n", capsys.readouterr().err)


@pytest.mark.parametrize("lacking", [lambda: torch.empty(2**60), lambda: bytearray(2**62)])
def test_memory_that_runs_out_is_a_sentence_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lacking: Callable[[], object]
) -> None:
    monkeypatch.setattr("sys.argv", ["scratchlab"])
    with pytest.raises(SystemExit) as ended:
        run_command(click.Command("greedy", callback=lacking))
    assert ended.value.code == 1
    assert re.fullmatch(r"Error: memory ran out \(.+\)\. End other programs .*\n", capsys.readouterr().err)


def test_a_place_that_is_taken_is_refused_before_anything_is_settled(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlab.training.start.resolve", lambda *asked: pytest.fail("which may take minutes"))
    assert "exists already" in str(fail(["train", f"{workplace}/tiny.toml", "--out", f"{workplace}/runs/first"]))
