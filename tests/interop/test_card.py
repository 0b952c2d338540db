"""Model cards: everything that the run recorded, nothing left to fill, nothing of this machine's paths."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import others
import pytest
from alone import in_process
from cards import PROOF, body_of, card_of
from huggingface_hub import ModelCard
from others import TEXT

from lessons import WORDS, base_recipe, build_text, write_lines
from scratchlab.cli.interop import _opened
from scratchlab.cli.publish import verify_export
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.chat import CHATML
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.store import Corpus
from scratchlab.interop import card_corpora
from scratchlab.interop.card import About, write_card
from scratchlab.interop.exports import export_run
from scratchlab.interop.proof import read_proof
from scratchlab.recipe import EvaluationSection
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder, step_name
from scratchlab.training.loop import train
from tiny_run import make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("card")
    for name in ("one", "two"):
        (place / f"{name}.txt").write_text(f"{name}: {TEXT}" * 12, encoding="utf-8")
    texts = [str(place / f"{name}.txt") for name in ("one", "two")]
    build_corpus(texts, place / "corpus", "bpe:280", "contiguous:.6,.2,.2")
    changes = ["training.steps=6", "training.precision=float32", "evaluation.sample_tokens=20", "evaluation.every=3"]
    changes += ["training.warmup_steps=0", "execution.threads=1", f"corpus={place / 'corpus'}", "seeds.data=77"]
    train(load_recipe(ROOT / "recipes/tiny.toml", changes), place / "run")
    return RunFolder.open(place / "run")


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Path:
    study = {"study": "norms", "metric": "test.bits_per_byte", "runs": 12, "arm": "rms", "block": "3"}
    about = About(load_as="exports/first", license="mit", languages=["en"], studies=[study])
    with in_process():
        export_run(run, run.path.parent / "export", about=about)
    return run.path.parent / "export"


def patch_corpus(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    """Cards are written as if a run had been trained on this one."""
    monkeypatch.setattr(card_corpora, "opened", lambda recorded: corpus)


def test_the_card_says_what_the_run_recorded(run: RunFolder, exported: Path) -> None:
    card, result, manifest = body_of(exported), run.result(), run.manifest()
    assert result is not None
    test, environment = result["test"], manifest["environment"]
    expected = [
        f"{test['bits_per_byte']:.4f} ± {test['bits_per_byte_error']:.4f}",
        f"{test['nats_per_token']:.4f} ± {test['nats_per_token_error']:.4f}",
        f"{test['n_units']} {test['unit']}, {test['n_tokens']:,} tokens",
        f"{6 * 8 * 32:,}",  # tokens
        environment["device"],
        environment["torch"],
        manifest["fingerprint"],
        manifest["corpus"]["sha256"],
        "init 1, data 77, noise 1",
        f"{result['cost']['training_tokens_per_second']:,.0f} tokens/s",
        "| one.txt | 1 |",
        "| two.txt | 1 |",
        'corpus = "corpus"',
        "steps = 6",
        "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in run.samples()[-1]["text"].strip("\n")),
        "block 3 of the arm `rms` in the study `norms`, which has 12 runs",
        "mit, as whoever published it stated",
        "Run it in the folder that holds this one:",
        "scratchlab verify ./first",
        *(f"{part}: {check['said']}" for part, check in read_proof(exported)["checks"].items()),
    ]
    assert [what for what in expected if what not in card] == []
    for chart in ("loss", "learning_rate", "gradient_norm"):
        assert f"](charts/{chart}.png)" in card
        assert (exported / f"charts/{chart}.png").read_bytes() == run.chart(chart).read_bytes()


def test_nothing_is_left_to_fill_and_no_path_is_told(run: RunFolder, exported: Path) -> None:
    card = body_of(exported)
    assert not re.search(r"\bNone\b|\bTODO\b|\bnan\b|\[More|\{\}|<your", card)
    assert str(run.path.parent) not in card
    assert str(run.path.parent) not in (exported / "proof.json").read_text(encoding="utf-8")
    assert str(ROOT) not in card


def test_the_hub_understands_its_head(run: RunFolder, exported: Path) -> None:
    head, result = ModelCard.load(exported / "README.md").data, run.result()
    assert result is not None
    known = (head.license, head.language, head.library_name, head.pipeline_tag, head.tags, head.model_name)
    assert known == ("mit", ["en"], "transformers", "text-generation", ["scratchlab"], "first")
    assert head.datasets is None
    bits, nats = head.eval_results or []
    assert (bits.metric_type, bits.dataset_name, bits.dataset_split) == ("bits_per_byte", "corpus", "test")
    assert bits.metric_value == pytest.approx(result["test"]["bits_per_byte"], abs=1e-6)
    assert nats.metric_value == pytest.approx(result["test"]["nats_per_token"], abs=1e-6)


@pytest.mark.parametrize("home", ["/home/alice/", "../home/alice/", "alice/", "~/alice/", "C:\\Users\\alice\\"])
def test_no_folder_of_this_machine_is_told(
    home: str, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way a path was given, whatever it is the path of."""
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    places = {"corpus": "text", "evaluation.corpus": "held", "evaluation.suites_data": "evals", "start.weights": "base"}
    changes = {field: home + name for field, name in places.items()}
    changes["evaluation.suites"] = f"copa:20, {home}own.jsonl:5,core"
    (copy.path / "recipe.toml").write_text(run.recipe().replaced(changes).to_toml(), encoding="utf-8")
    manifest = run.manifest() | {"lineage": [{"run": f"{home}base", "fingerprint": "0", "step": 1, "tokens": 2}]}
    manifest["evaluation_corpus"] = {"path": f"{home}held", "sha256": "0"}
    (copy.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    opened = card_corpora.opened(run.manifest()["corpus"])
    assert opened is not None
    one, *_ = opened.manifest.sources
    given = ("notes.txt", "more/", "*.md")
    sources = tuple(one.model_copy(update={"source": home + name}) for name in given)
    tokenizer = opened.manifest.tokenizer.model_copy(update={"spec": f"{home}words"})
    opened.manifest = opened.manifest.model_copy(update={"sources": sources, "tokenizer": tokenizer})
    patch_corpus(monkeypatch, opened)
    card = card_of(copy, tmp_path / "card", load_as=f"{home}exports/first")
    assert "alice" not in card
    assert [f"\n| {name} | " in card for name in ("notes.txt", "more", "*.md")] == [True] * 3
    expected = ['corpus = "text"', 'corpus = "held"', 'suites_data = "evals"', 'weights = "base"']
    expected += ['suites = "copa:20,own.jsonl:5,core"', "words, 280 symbols", "from_pretrained('./first')"]
    assert [line for line in expected if line not in card] == []


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def test_the_code_on_the_card_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    exec(code_of(body_of(exported)), {})
    assert "very" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [None, "model.safetensors"])
def test_a_stranger_can_compare_the_hashes(changed: str | None, exported: Path, tmp_path: Path) -> None:
    """With the line on the card and no scratchlab."""
    shutil.copytree(exported, tmp_path / "first")
    if changed:
        with (tmp_path / "first" / changed).open("ab") as file:
            file.write(b"0")
    (script,) = re.findall(r"```\n(\(cd .*?)```", body_of(exported), re.DOTALL)
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    assert said == {name: "FAILED" if name == changed else "OK" for name in read_proof(exported)["files"]}
    assert done.returncode == bool(changed)


def test_what_is_not_known_is_said_in_words(run: RunFolder, tmp_path: Path) -> None:
    (run.path.parent / "corpus").rename(tmp_path / "elsewhere")
    try:
        card = card_of(run, tmp_path / "card")
    finally:
        (tmp_path / "elsewhere").rename(run.path.parent / "corpus")
    assert "which was no longer there when this card was written" in card
    assert "None was stated: without one, nobody is given the right" in card
    assert "no price is known of" in card
    assert "hf download me/mine --local-dir mine" not in card
    assert "## The study it came from" not in card
    assert "The run itself has 4:" in card
    head = ModelCard(card).data
    assert (head.license, head.language, head.model_name) == (None, None, "mine")


def test_a_snapshot_has_a_sample_of_its_time_and_no_test_loss(run: RunFolder, tmp_path: Path) -> None:
    assert [sample["step"] for sample in run.samples()] == [3, 6]
    proof = PROOF | {"run": PROOF["run"] | {"at": 4}}
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", run, proof, About(load_as="me/mine", on_hub=True, revision="step-00000004"))
    card = body_of(tmp_path / "card")
    assert "At step 3 (validation loss" in card
    assert "At step 6" not in card
    assert "the weights here are those of step 4" in card
    assert ModelCard(card).data.eval_results is None
    assert "from_pretrained('me/mine', revision='step-00000004')" in card
    assert "hf download me/mine --revision step-00000004 --local-dir mine" in card


@pytest.mark.parametrize("at", ["final", "best", 2])
def test_the_card_says_which_weights_they_are(at: str | int, run: RunFolder, tmp_path: Path) -> None:
    best = run.snapshot("best")[1]["step"]
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    copy.save_snapshot(step_name(2), 2, lambda file: file.write_bytes(b""))
    expected = {
        "final": "These are the weights of its last checkpoint, at step 6.",
        "best": f"These are the weights of step {best}, where its validation loss was lowest.",
        2: "These are the weights of step 2.",
    }
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", copy, PROOF | {"run": PROOF["run"] | {"at": at}}, About(load_as="me/mine"))
    assert re.findall("These are the weights.*", body_of(tmp_path / "card")) == [expected[at]]


def test_early_stopping_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", others.make_tokenizer())
    run.save_checkpoint(9, lambda file: file.write_bytes(b""), {"weights_of": 4})
    expected = "of its last checkpoint: those of step 4 of 9, where its validation loss was lowest."
    assert expected in card_of(run, tmp_path / "card")


SHORT = """{% for m in messages %}{% if m.role == "user" %}Q: {{ m.content }}
A: {% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""


@pytest.mark.parametrize("lora", [None, 2])
def test_what_learned_preferences_says_so(lora: int | None, tmp_path: Path) -> None:
    build_text(tmp_path)
    train(base_recipe(tmp_path), tmp_path / "base")
    rows = [{"prompt": f"Say {one}.", "chosen": f"{one}, please", "rejected": f"no {one}"} for one in WORDS]
    data = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "q" * 90, "chosen": "a", "rejected": "b"}, *rows])
    (tmp_path / "short.jinja").write_text(SHORT, encoding="utf-8")
    wording = open_wording(str(tmp_path / "short.jinja"))
    build_examples([data], tmp_path / "pairs", "pairs", wording, str(tmp_path / "base"), "contiguous:.6,.2,.2")
    recipe = base_recipe(tmp_path, {"corpus": str(tmp_path / "pairs"), "start.weights": str(tmp_path / "base")})
    train(recipe.replaced({} if lora is None else {"finetuning.lora_rank": lora}), tmp_path / "run")
    card = card_of(RunFolder.open(tmp_path / "run"), tmp_path / "card")
    told = "It learned preferences, by DPO (beta 0.1): from 5 pairs (1 more did not fit its context), each of a"
    assert told in card
    assert re.search(r"\| test split \| \d\.\d{3} ± \d\.\d{3} \| -?\d+\.\d{3} ± \d+\.\d{3} \| 3 \|", card)
    assert "What it is measured against is base, whose weights it began from." in card
    assert "1. base began from fresh weights; it learned from text, to step 2" in card
    assert ("Adapters of rank 2 were trained" in card) == (lora is not None)
    assert str(tmp_path) not in card


def test_the_page_says_what_the_card_does_not() -> None:
    """And names the field by which tasks come to be on it."""
    page = " ".join((ROOT / "docs/publishing.md").read_text(encoding="utf-8").split())
    assert "What `scratchlab evaluate` measures after the training (another text, `--suite`) is not on the card" in page
    (field,) = re.findall(r"asked while it trained \(`evaluation\.(\w+)`\)", page)
    assert field in EvaluationSection.model_fields


def test_datasets_of_the_hub_are_linked(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = card_corpora.opened(run.manifest()["corpus"])
    assert opened is not None
    place = {"source": "hf:some/texts?split=train", "location": "hf:some/texts?split=train"}
    sources = tuple(source.model_copy(update=place) for source in opened.manifest.sources)
    opened.manifest = opened.manifest.model_copy(update={"sources": sources})
    patch_corpus(monkeypatch, opened)
    head = ModelCard(card_of(run, tmp_path / "card", on_hub=True)).data
    assert head.datasets == ["some/texts"]
    assert {one.dataset_type for one in head.eval_results or []} == {"some/texts"}
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    manifest = run.manifest() | {"evaluation_corpus": {"path": "/elsewhere/held", "sha256": "0"}}
    (copy.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    own = run.manifest()["corpus"]
    monkeypatch.setattr(card_corpora, "opened", lambda recorded: opened if recorded == own else None)
    head = ModelCard(card_of(copy, tmp_path / "other", on_hub=True)).data
    assert head.datasets == ["some/texts"]
    assert {one.dataset_type for one in head.eval_results or []} == {"held"}, "what scored it is another"
    assert "hf download me/mine --local-dir mine" in body_of(tmp_path / "card")


def test_a_run_without_results_has_a_card(tmp_path: Path) -> None:
    """One that was taught to answer, and whose training was cut off; an import."""
    tokenizer = others.make_tokenizer().with_specials(["<|im_start|>", "<|im_end|>"])
    run = make_run(tmp_path / "run", tokenizer, CHATML)
    asked = {"metric": "accuracy", "accuracy": {"value": 0.25, "error": 0.031, "n": 200}}
    run.append_metrics([{"step": 0, "suites": {"hellaswag": asked}}])
    run.append_sample({"step": 0, "prompt": "user\nwho?\nassistant\n", "text": "nobody"})
    card = card_of(run, tmp_path / "card")
    assert "| hellaswag | accuracy | 0.250 ± 0.031 | 200 |" in card
    assert "To the question:\n\n```text\nwho?\n```\n\nit answers:\n\n```text\nnobody\n```" in card
    assert "The run was not finished: its last checkpoint is of step 0," in card
    assert "It has no test loss" in card
    assert "apply_chat_template(messages" in card
    manifest = run.path / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["imported"] = {"source": "some/gpt", "format": "Hugging Face GPT-2", "revision": "0123456789abcdef"}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert "the weights of some/gpt at revision 0123456789ab, as they were" in card_of(run, tmp_path / "imported")
    assert "what they were trained on is not recorded here" in body_of(tmp_path / "imported")


def test_code_that_comes_along_is_to_be_trusted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", others.make_tokenizer())
    assert "scratchlab verify ./mine\n" in card_of(run, tmp_path / "card")
    (tmp_path / "custom").mkdir()
    write_card(tmp_path / "custom", run, PROOF | {"needs_code": True}, About(load_as="me/mine"))
    card = body_of(tmp_path / "custom")
    assert "which has no public address yet: neither a page nor a package. Where a clone of it lies" in card
    assert "pip install './scratchlab[transformers]'" in card
    assert "trust_remote_code=True" in card
    (line,) = re.findall(r"^scratchlab (verify .*)$", card, re.MULTILINE)
    assert line == "verify ./mine --trust-code"
    assert verify_export.make_context("verify", line.split()[1:]).params["trust_code"]


def test_names_are_quoted(tmp_path: Path) -> None:
    """For Python and for a shell, each in its way."""
    run = make_run(tmp_path / "run", others.make_tokenizer())
    card = card_of(run, tmp_path / "card", load_as="exports/it's mine")
    assert "scratchlab verify './it'\"'\"'s mine'\n" in card
    assert "# it's mine\n" in card
    assert """AutoModelForCausalLM.from_pretrained("./it's mine")""" in card


@pytest.mark.parametrize("form", ["hf", "custom", "gguf", "onnx", "peft"])
def test_the_command_line_quotes_them_too(form: str) -> None:
    said = _opened(form, Path("exports/it's mine"))
    if form == "gguf":
        assert shlex.split(said)[4:] == ["exports/it's mine/Modelfile,", "or", "llama-cli", "-m", GGUF]
    else:
        paths = [node.value for node in ast.walk(ast.parse(said)) if isinstance(node, ast.Constant)]
        assert "exports/it's mine" in {str(path).removesuffix("/model.onnx") for path in paths}


GGUF = "exports/it's mine/model.gguf"


def test_a_sample_cannot_break_out_of_its_block(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", others.make_tokenizer())
    run.append_sample({"step": 3, "text": "```\n# Title\n````text\x00\n"})
    assert "\n`````text\n```\n# Title\n````text\ufffd\n`````\n" in card_of(run, tmp_path / "card")
