"""Adapters out to peft and in from peft: the same logits, and nothing is taken for what it is not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import others
import pytest
import torch
from alone import in_process
from click.testing import CliRunner
from exported import assert_readable
from others import SYMBOLS
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_imports import make_gpt2
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from scratchlab.cli.main import cli
from scratchlab.corpus.chat import ALPACA
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.files import sha256_of_file
from scratchlab.interop import adapter_exports
from scratchlab.interop.adapter_exports import _settings as settings_of  # pyright: ignore[reportPrivateUsage]
from scratchlab.interop.adapter_exports import export_adapters
from scratchlab.interop.adapters import import_adapters, to_peft
from scratchlab.interop.imports import import_run, imported_run
from scratchlab.interop.proof import verify
from scratchlab.model.build import empty_model
from scratchlab.model.load import load_model
from scratchlab.model.lora import adapt, is_adapter
from scratchlab.recipe import FinetuningSection, recipe_from
from scratchlab.runfolder import RunFolder
from tiny import distance

pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True"),  # of a head, which is a plain layer
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to .True."),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # between the two
]
WRITTEN = ["adapter_config.json", "adapter_model.safetensors", "base", "compared.json"]
KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "attention": {"lora_layers": "attention"},
    "query_value": {"lora_layers": "query_value"},
    "mlp": {"lora_layers": "mlp", "lora_alpha": None, "lora_dropout": 0.1},
}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No process for a proof."""
    with in_process():
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return others.make_tokenizer()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """GPT-2s of transformers, tied and not, as runs."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for name, changes in (("tied", {}), ("untied", {"tie_word_embeddings": False})):
        make_gpt2(folder / f"{name}-hf", folder / "tokenizer.json", **changes)
        import_run(str(folder / f"{name}-hf"), folder / name)
    return folder


def tokens() -> Tensor:
    return torch.randint(SYMBOLS, (3, 16), generator=torch.Generator().manual_seed(5))


def lively_run(place: Path, base: str, out: Path, tokenizer: Tokenizer, seed: int = 1, **fields: Any) -> RunFolder:
    """A run with adapters of random values, in a vocabulary that is padded."""
    finetuning = FinetuningSection(**dict[str, Any]({"lora_rank": 3, "lora_alpha": 5.0, **fields}))
    own = dict(load_model(RunFolder.open(place / base), device="cpu").named_parameters())
    config = RunFolder.open(place / base).resolved().model
    generator = torch.Generator().manual_seed(seed)
    adapters = {
        name: torch.randn(parameter.shape, generator=generator) / 4
        for name, parameter in adapt(empty_model(config, SYMBOLS), finetuning).named_parameters()
        if is_adapter(name)
    }
    sections = {
        "model": config.model_dump(exclude_defaults=True),
        "finetuning": finetuning.model_dump(exclude_none=True),
    }
    origin = {"source": "here", "format": "test", "files": {}}
    return imported_run(out, sections, tokenizer, origin, adapters, {n: p.detach() for n, p in own.items()})


def in_peft(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(folder / "base"), folder).eval()


@torch.no_grad()
def gap(ours: RunFolder, theirs: nn.Module) -> float:
    return distance(load_model(ours, device="cpu")(tokens())[0], theirs(tokens()).logits)


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_ours_and_we_load_that(
    place: Path, tmp_path: Path, tokenizer: Tokenizer, kind: str, base: str
) -> None:
    run = lively_run(place, base, tmp_path / "run", tokenizer, **KINDS[kind])
    assert export_adapters(run, tmp_path / "peft") == WRITTEN
    assert_readable(tmp_path / "peft")
    assert gap(run, in_peft(tmp_path / "peft")) < 1e-6
    assert gap(run, GPT2LMHeadModel.from_pretrained(tmp_path / "peft/base").eval()) > 1e-3
    back = import_adapters(tmp_path / "peft", RunFolder.open(place / base), tmp_path / "back")
    assert distance(*(load_model(one, device="cpu")(tokens())[0].detach() for one in (back, run))) < 1e-7
    given, found = run.resolved().finetuning, back.resolved().finetuning
    assert (found.lora_rank, found.lora_layers, found.lora_dropout) == (3, given.lora_layers, given.lora_dropout)
    same = [load_file(one.checkpoint(0)[0]) for one in (run, back)]
    assert same[0].keys() == same[1].keys()
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"target_modules": ["c_attn"]}, "attention"),
        ({"target_modules": ["c_attn", "c_proj", "c_fc"], "lora_alpha": 12, "lora_dropout": 0.25}, "all"),
        ({"target_modules": ["mlp.c_proj"], "use_rslora": True}, "mlp"),
        ({"target_modules": ["c_fc"], "layers_to_transform": [1], "layers_pattern": "h"}, "mlp"),
        ({"target_modules": ["c_attn", "lm_head"]}, "all"),
    ],
    ids=["its default", "all", "rslora", "one layer", "head"],
)
def test_we_load_pefts(place: Path, tmp_path: Path, options: dict[str, Any], layers: str) -> None:
    base = "untied" if "lm_head" in options["target_modules"] else "tied"
    theirs = get_peft_model(
        GPT2LMHeadModel.from_pretrained(place / f"{base}-hf"),
        LoraConfig(task_type="CAUSAL_LM", r=4, fan_in_fan_out=True, init_lora_weights=False, **options),
    ).eval()
    theirs.save_pretrained(str(tmp_path / "peft"))
    run = import_adapters(tmp_path / "peft", RunFolder.open(place / base), tmp_path / "run")
    assert gap(run, theirs) < 1e-6
    assert gap(RunFolder.open(place / base), theirs) > 1e-3
    found = run.resolved().finetuning
    assert (found.lora_rank, found.lora_layers, found.lora_dropout) == (4, layers, options.get("lora_dropout", 0.0))
    assert run.manifest()["imported"]["format"] == "peft adapters"
    assert recipe_from(run.recipe().model_dump(), "again").start.weights == str(tmp_path / "run")


@torch.no_grad()
def test_several_adapters_on_one_base(place: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """peft has both on one model, and each gives what the run gives that it came from."""
    runs = [lively_run(place, "tied", tmp_path / name, tokenizer, seed) for seed, name in enumerate("ab")]
    for run in runs:
        export_adapters(run, tmp_path / f"{run.path.name}-peft")
    theirs = in_peft(tmp_path / "a-peft")
    theirs.load_adapter(str(tmp_path / "b-peft"), "second")
    for adapter, run in zip(("default", "second", "default"), (*runs, runs[0]), strict=True):
        theirs.set_adapter(adapter)
        assert gap(run, theirs) < 1e-6
    assert distance(*(load_model(run, device="cpu")(tokens())[0] for run in runs)) > 1e-3


def test_how_it_is_spoken_to_comes_back_beside_a_base_that_was_taught_nothing(
    place: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    run = lively_run(place, "tied", tmp_path / "run", tokenizer)
    run.chat_template_path.write_text(ALPACA, encoding="utf-8")
    export_adapters(run, tmp_path / "peft")
    back = import_adapters(tmp_path / "peft", RunFolder.open(place / "tied"), tmp_path / "back")
    assert back.chat_template_path.read_text(encoding="utf-8") == ALPACA
    export_adapters(back, tmp_path / "again")
    for file in ("adapter_model.safetensors", "base/model.safetensors", "base/tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "peft" / file).read_bytes(), file


def test_the_base_and_the_adapters_are_proved(place: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    run = lively_run(place, "tied", tmp_path / "run", tokenizer)
    export_adapters(run, tmp_path / "peft")
    compared = json.loads((tmp_path / "peft/compared.json").read_text(encoding="utf-8"))
    hashes = {name: sha256_of_file(tmp_path / "peft" / name) for name in compared["files"]}
    assert compared["files"] == hashes
    assert compared["base"]["weights_sha256"] == hashes["base/model.safetensors"]
    assert compared["run"]["fingerprint"] == run.manifest()["fingerprint"]
    assert verify(tmp_path / "peft/base")["passed"]
    with pytest.raises(RunError, match=r"has no proof.json: it holds adapters.*scratchlab verify .*/peft/base"):
        verify(tmp_path / "peft")


def test_no_path_of_this_machine_is_told_and_a_base_of_the_hub_by_its_name(
    place: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    run = lively_run(place, "tied", tmp_path / "run", tokenizer)

    def config_of(out: str) -> dict[str, Any]:
        export_adapters(run, tmp_path / out)
        for file in (tmp_path / out).rglob("*.json"):
            assert str(tmp_path) not in file.read_text(encoding="utf-8"), file
        return json.loads((tmp_path / out / "adapter_config.json").read_text(encoding="utf-8"))

    def begun_from(sha256: str) -> None:
        imported = {"source": "someone/gpt2", "revision": "0123abc", "format": "Hugging Face GPT-2", "files": {}}
        lineage = [{"run": str(tmp_path), "weights_sha256": sha256, "imported": imported}]
        content = json.loads((run.path / "manifest.json").read_text(encoding="utf-8")) | {"lineage": lineage}
        (run.path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")

    assert config_of("unknown")["base_model_name_or_path"] == "base"
    begun_from("of others")
    assert config_of("other")["base_model_name_or_path"] == "base"
    begun_from(RunFolder.open(place / "tied").checkpoint(0)[1]["sha256"])
    known = config_of("known")
    assert (known["base_model_name_or_path"], known["revision"]) == ("someone/gpt2", "0123abc")
    assert gap(run, in_peft(tmp_path / "known")) < 1e-6


def test_adapters_that_do_not_come_back_are_not_exported(
    place: Path, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lively_run(place, "tied", tmp_path / "run", tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(adapter_exports, "to_peft", lambda *given: {n: 2 * t for n, t in to_peft(*given).items()})
        with pytest.raises(RunError, match=r"does not give back the adapters that were written: blocks\.0\."):
            export_adapters(run, tmp_path / "peft")
    with monkeypatch.context() as patch:
        patch.setattr(adapter_exports, "_settings", lambda *given: settings_of(*given) | {"lora_alpha": 7.0})
        with pytest.raises(RunError, match=r"multiplied by one scale|their scale"):
            export_adapters(run, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


# What is refused.


@pytest.fixture(scope="module")
def good(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    theirs = get_peft_model(
        GPT2LMHeadModel.from_pretrained(place / "tied-hf"),
        LoraConfig(task_type="CAUSAL_LM", r=4, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"]),
    )
    folder = tmp_path_factory.mktemp("good")
    theirs.save_pretrained(str(folder / "peft"))
    return folder / "peft"


FC = "base_model.model.transformer.h.0.mlp.c_fc"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["wte"]}, r"modules_to_save = \['wte'\]"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"r": 0}, "r = 0"),
        ({"r": 5}, "is said to have rank 5, and has 4"),
        ({"alpha_pattern": {"c_fc": 99}}, "multiplied by one scale"),
        (
            {
                "r": 2,
                "rank_pattern": {"c_attn": 4, "c_fc": 4},
                "lora_alpha": 4,
                "alpha_pattern": {"c_attn": 8, "c_fc": 8},
            },
            "of rank 4",
        ),
    ],
)
def test_settings_that_ours_do_not_have(
    place: Path, good: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    shutil.copytree(good, tmp_path / "peft")
    path = tmp_path / "peft/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    with pytest.raises(RunError, match=said):
        import_adapters(tmp_path / "peft", RunFolder.open(place / "tied"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (f"{FC}.lora_magnitude_vector", torch.ones(4), "lora_magnitude_vector"),
        (f"{FC}.lora_A.weight", torch.ones(4, 7), "h.0.mlp.c_fc of rank 4"),
        (f"{FC}.lora_A.weight", torch.full((4, 32), torch.nan), "not understood"),
        ("base_model.model.lm_head.lora_A.weight", torch.ones(4, 32), "lm_head"),
    ],
)
def test_tensors_that_ours_do_not_have(
    place: Path, good: Path, tmp_path: Path, name: str, tensor: Tensor, said: str
) -> None:
    shutil.copytree(good, tmp_path / "peft")
    path = tmp_path / "peft/adapter_model.safetensors"
    save_file(load_file(path) | {name: tensor}, path)
    with pytest.raises(RunError, match=said):
        import_adapters(tmp_path / "peft", RunFolder.open(place / "tied"), tmp_path / "run")


def test_a_run_without_adapters_has_none_to_export(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no adapters"):
        export_adapters(RunFolder.open(place / "tied"), tmp_path / "peft")


# The commands.


def test_the_commands(place: Path, good: Path, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(cli, [str(word) for word in words])

    def refused(*words: object) -> str:
        return str(run(*words).exception)

    done = run("import", good, "--base", place / "tied", "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["imported"]["base"] == str(place / "tied")
    done = run("export", tmp_path / "run", "--format", "peft", "--to", tmp_path / "peft")
    assert "PeftModel.from_pretrained" in done.stdout
    assert (tmp_path / "peft/base/config.json").is_file()
    assert "--base RUN" in refused("import", good, "--out", tmp_path / "other")
    no_adapter = refused("import", place / "tied-hf", "--base", place / "tied", "--out", tmp_path / "x")
    assert "has no adapter_config.json" in no_adapter
