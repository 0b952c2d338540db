"""From answers to pairs to a run that learned from them, by the commands alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lessons import HERE, MODEL, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.cli.main import cli
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import ScratchlabError
from scratchlab.recipe import recipe_from
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

QUICK = ["execution.device=cpu", "execution.threads=1", "training.precision=float32", "evaluation.sample_tokens=0"]
SHORT = """{% for m in messages %}{% if m.role == "user" %}Q: {{ m.content }}
A: {% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base run, one that was taught, and the answers of both."""
    folder = tmp_path_factory.mktemp("chain")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    (folder / "short.jinja").write_text(SHORT, encoding="utf-8")
    data = write_alpaca(folder / "data.json", 40)
    wording = open_wording(str(folder / "short.jinja"))
    build_examples([data], folder / "talk", "instructions", wording, str(folder / "base"), "hash:.7,.15,.15")
    tables: dict[str, Any] = {
        "corpus": str(folder / "talk"),
        "model": MODEL,
        "training": {"steps": 30, "global_batch_size": 4, "learning_rate": 1e-2, "precision": "float32"},
        "evaluation": {"every": 30, "sample_tokens": 0, "snapshots": 0},
        "start": {"weights": str(folder / "base")},
        "execution": HERE,
    }
    train(recipe_from(tables, "taught"), folder / "taught")
    how = ["--data", data, "--max-tokens", 8, "--device", "cpu"]
    said("answer", folder / "taught", "--out", folder / "answers/taught", *how)
    drawn = ["--template", folder / "short.jinja", "--temperature", 1]  # the likeliest it would say is nothing
    said("answer", folder / "base", *drawn, "--out", folder / "answers/base", *how)
    return folder


def said(*arguments: Any, input: str | None = None) -> str:
    result = CliRunner().invoke(cli, list(map(str, arguments)), input=input, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_answers_to_a_run(place: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    found = json.loads(said("judge", place / "answers/taught", "--pairs", pairs, "--json"))
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    assert found["pairs"] == len(rows) > 20
    references = [row["output"] for row in json.loads((place / "data.json").read_text(encoding="utf-8"))]
    assert all(row["chosen"] == references[int(row["question"]) - 1] != row["rejected"] for row in rows)
    shown = said("finetune", place / "taught", "--data", pairs, "--pairs", "--show-mask", 1)
    assert "A: \nchosen: ⟦" in shown
    assert "\nrejected: ⟦" in shown
    out = tmp_path / "run"
    said("finetune", place / "taught", "--data", pairs, "--pairs", "--out", out, "--split", "hash:.7,.15,.15", *QUICK)
    result, recipe = RunFolder.open(out).result(), RunFolder.open(out).recipe()
    assert result is not None
    assert result["test"]["pairs"] > 0
    assert (recipe.training.epochs, recipe.training.global_batch_size) == (1.0, 16)
    assert recipe.training.learning_rate == pytest.approx(0.1 * 1e-2), "a tenth of what it was taught at"
    template = open_corpus(f"{out}-corpus").chat_template
    assert template is not None
    assert template.source == SHORT, "worded as it was taught"


def test_answers_that_were_cut_off_are_learned_without_an_end(place: Path, tmp_path: Path) -> None:
    (answers,) = (place / "answers/base").glob("*.jsonl")
    head, *told = map(json.loads, answers.read_text(encoding="utf-8").splitlines())
    told.sort(key=lambda one: one["item"])
    assert sum(not one["ended"] for one in told) > 20, "else the test says little"
    told[0]["answer"], told[1]["answer"] = "  ", f"{told[1]['reference']}\n"
    changed, pairs = write_lines(tmp_path / "changed.jsonl", [head, *told]), tmp_path / "pairs.jsonl"
    found = json.loads(said("judge", changed, "--pairs", pairs, "--json"))
    empty = sum(not one["answer"].strip() for one in told)
    assert found["pairs_left_out"] == {"an empty answer": empty, "equal answers": 1}
    told = [one for one in told[2:] if one["answer"].strip()]
    assert f"Left out: {empty} with an empty answer, 1 with equal answers" in said("judge", changed, "--pairs", pairs)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    assert [row.get("cut_off", []) for row in rows] == [["rejected"] * (not one["ended"]) for one in told]
    rows.append({**rows[0], "chosen": "", "cut_off": []})
    out, given = tmp_path / "run", ["--pairs", "--prepare", "--split", "contiguous:1,0,0"]
    data = write_lines(tmp_path / "more.jsonl", rows)
    text = said("finetune", place / "taught", "--data", data, "--out", out, *given, *QUICK)
    assert f"Corpus: {out}-corpus (left out: 1 empty response)" in text
    corpus = open_corpus(f"{out}-corpus")
    split, end = corpus.split("train"), corpus.tokenizer.end_of_text
    assert split.marks is not None
    for number, one in enumerate(told):
        start, stop = split.document_starts[number : number + 2]
        ids, marks = split.read(start, stop), split.marks[start:stop]
        assert ids[marks == 1][-1] == end, "a reference has its end"
        assert (ids[marks == 2][-1] == end) == one["ended"]


def test_labels_say_which_answers_were_cut_off(place: Path, tmp_path: Path) -> None:
    both, labels = (place / "answers/taught", place / "answers/base"), tmp_path / "labels.jsonl"
    ended = dict[tuple[str, str], bool]()
    for folder in both:
        (path,) = folder.glob("*.jsonl")
        head, *told = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        ended |= {(head["model"], one["id"]): one["ended"] for one in told}
    said("label", *both, "--out", labels, input="".join(f"{key}\n" for key in "12" * 10) + "q\n")
    for row in map(json.loads, labels.read_text(encoding="utf-8").splitlines()):
        chosen, rejected = (row["a"], row["b"]) if row["preferred"] == "a" else (row["b"], row["a"])
        expected = [
            name for name, model in (("chosen", chosen), ("rejected", rejected)) if not ended[model, row["question"]]
        ]
        assert row.get("cut_off", []) == expected


def test_the_rate_of_a_base_is_a_tenth_of_what_instructions_would_have(place: Path, tmp_path: Path) -> None:
    row = {"prompt": "Say it.", "chosen": "it", "rejected": "no"}
    path = write_lines(tmp_path / "p.jsonl", [{**row, "prompt": f"Say {n}."} for n in range(20)])
    given = ["--template", place / "short.jinja", "--out", tmp_path / "r", "--prepare"]
    said("finetune", place / "base", "--data", path, "--pairs", *given, *QUICK)
    assert load_recipe(tmp_path / "r.toml").training.learning_rate == pytest.approx(1e-5)
    for arguments, words in (
        (["--data", place / "talk", "--pairs"], "holds instructions, not pairs: leave --pairs out"),
        (["--data", tmp_path / "r-corpus"], "holds pairs, not instructions: add --pairs"),
    ):
        with pytest.raises(ScratchlabError, match=words):
            said("finetune", place / "base", *arguments, "--out", tmp_path / "no")


def test_two_models_and_a_person(place: Path, tmp_path: Path) -> None:
    both = place / "answers/taught", place / "answers/base"
    found = json.loads(said("judge", *both, "--pairs", tmp_path / "pairs.jsonl", "--json"))
    best = {one["model"]: one["wins"] for one in found["ranking"]}
    assert sum(one["value"] for one in best.values()) == pytest.approx(1)
    assert all(one["n"] == 40 for one in best.values())
    assert "no judge of what is right" in said("judge", *both)
    labels = tmp_path / "labels.jsonl"
    keys = "".join(f"{key}\n" for key in ("1", "2", "n", *"12" * 10, "q"))
    said("label", *both, "--out", labels, input=keys)
    said("finetune", place / "taught", "--data", labels, "--pairs", "--out", tmp_path / "run", "--prepare", *QUICK)
    corpus = open_corpus(tmp_path / "run-corpus")
    assert sum(split.documents for split in corpus.manifest.splits.values()) == 22
    assert "neither preferred" in said("corpus", "show", corpus.path)
