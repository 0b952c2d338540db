"""Runs that train adapters: what is trained, what is kept, and that what reads a run gets the whole model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from crew import together
from lessons import alpaca, base_recipe, build_text, write_lines
from meter import Meter
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.loader import Loader
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.windows import Windows
from scratchlab.errors import RecipeError, RunError, Terminated
from scratchlab.evaluation.loss import byte_lengths, evaluate_units
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model.count import parameter_count, trained_count
from scratchlab.model.load import load_model
from scratchlab.model.lora import is_adapter
from scratchlab.recipe import Recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training import loop
from scratchlab.training.checkpoint import check_disk
from scratchlab.training.forecast import forecast_here
from scratchlab.training.loop import resume, train
from scratchlab.training.memory import memory_of, offloaded_bytes, with_evaluation
from scratchlab.training.progress import Silent
from scratchlab.training.signals import StopRequest
from scratchlab.training.start import create_run, fingerprint, pick_up
from scratchlab.training.step import TorchBackend
from scratchlab.training.work import Work
from scratchlab.training.world import ALONE, World
from tiny import VOCAB, distance, random_stream, tiny_batch, tiny_recipe

LORA = {"finetuning.lora_rank": 2, "finetuning.lora_alpha": 4.0, "model.tie_weights": False}
STEPS = 12
Kept = dict[str, Tensor]


# The arithmetic of a step.


def trained(
    recipe: Recipe, steps: range = range(4), world: World = ALONE, begin: Kept | None = None
) -> tuple[Kept, list[float]]:
    """Adapters and moments after some steps, and their losses. Sharing out rows as processes do."""
    backend, rows = TorchBackend(recipe, VOCAB, world=world), recipe.training.global_batch_size
    windows = Windows(random_stream(400), recipe.model.context_length)
    loader = Loader(windows, rows, recipe.seeds.data, rank=world.rank, ranks=world.size)
    state = backend.init() if begin is None else backend.restore(begin, {"loss_scale": 1.0, "good_steps": 0})
    losses: list[float] = []
    for step in steps:
        state, metrics = backend.step(state, backend.send(loader.batch(step)), step)
        losses.append(float(metrics["loss"]))
    everything = {name: part.detach() for name, part in backend.model(state).named_parameters()}
    frozen = {f"merged.{name}": tensor.clone() for name, tensor in everything.items()}
    return {name: tensor.clone() for name, tensor in backend.tensors(state).items()} | frozen, losses


def farthest(a: Kept, b: Kept) -> float:
    assert a.keys() == b.keys()
    return max(distance(a[name], b[name]) for name in b if not name.endswith(("exp_avg_sq", "exp_avg")))


def test_adapters_alone_are_moved_and_kept() -> None:
    recipe = tiny_recipe(LORA)
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    before = {name: part.detach().clone() for name, part in state.model.named_parameters()}
    metrics: dict[str, Tensor] = {}
    for step in range(3):
        state, metrics = backend.step(state, tiny_batch(recipe, step), step)
    gradients = [part.grad for part in state.model.parameters() if part.grad is not None]
    assert float(metrics["gradient_norm"]) == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)))
    after = dict(state.model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(filter(is_adapter, before))
    weights, kept = backend.weights(state), backend.tensors(state)
    assert set(weights) == set(filter(is_adapter, before))
    assert {name.removesuffix(f".{part}") for name in kept for part in ("exp_avg", "exp_avg_sq", "step")} <= {*kept}
    assert sum(tensor.numel() for tensor in weights.values()) == trained_count(recipe.model, VOCAB, recipe.finetuning)


@pytest.mark.parametrize(
    "changes",
    [
        {"execution.micro_batch_size": 1},
        {"execution.activation_checkpointing": True, "finetuning.lora_dropout": 0.3},
        {"execution.optimizer_offload": True},
    ],
    ids=["micro-batches", "recomputed", "off-loaded"],
)
def test_steps_are_the_same_however_they_are_taken(changes: dict[str, Any]) -> None:
    plain = {name: value for name, value in changes.items() if name.startswith("finetuning")}
    (one, losses), (other, others) = trained(tiny_recipe(LORA | plain)), trained(tiny_recipe(LORA | changes))
    assert others == pytest.approx(losses, rel=1e-6)
    assert farthest(other, one) < 2e-4


def of_two(world: World) -> list[tuple[Kept, list[float]]]:
    found: list[tuple[Kept, list[float]]] = []
    for shard in (None, True):
        recipe = tiny_recipe(
            LORA | {"execution.processes": 2, "execution.shard": shard, "execution.micro_batch_size": 1}
        )
        kept, losses = trained(recipe, world=world)
        found.append((kept, losses))
    return found


def test_two_processes_take_the_steps_of_one() -> None:
    """By DDP and by FSDP2."""
    alone, losses = trained(tiny_recipe(LORA))
    for kept, others in together(2, of_two)[0]:
        assert others == pytest.approx(losses, rel=1e-5)
        assert farthest(kept, alone) < 2e-4


# The run folder.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and a run on it, and a run of adapters that began from that."""
    folder = tmp_path_factory.mktemp("lora")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    train(lora_recipe(folder), folder / "adapted")
    return folder


def lora_recipe(folder: Path, changes: dict[str, Any] | None = None) -> Recipe:
    return base_recipe(
        folder,
        {
            "start.weights": str(folder / "base"),
            "finetuning.lora_rank": 2,
            "training.steps": STEPS,
            "training.learning_rate": 0.02,
            "training.checkpoint_every": 5,
            "evaluation.every": 4,
            "evaluation.snapshots": 1,
            **(changes or {}),
        },
    )


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def result_of(folder: Path) -> dict[str, Any]:
    result = RunFolder.open(folder).result()
    assert result is not None
    return result


def test_the_base_is_kept_once_and_the_rest_is_small(place: Path) -> None:
    folder, base = RunFolder.open(place / "adapted"), RunFolder.open(place / "base")
    theirs, own = load_file(base.checkpoint(2)[0]), load_file(folder.snapshot("base")[0])
    assert own.keys() == {name for name in theirs if f"{name}.exp_avg" in theirs}
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    for step in folder.checkpoint_steps():
        assert all(".lora_" in name for name in load_file(folder.checkpoint(step)[0]))
    assert set(load_file(folder.snapshot("best")[0])) == {
        name for name in load_file(folder.checkpoint(STEPS)[0]) if is_adapter(name)
    }
    assert folder.snapshot_steps()[0] == 0


def test_disk_and_result_say_what_is_trained(place: Path) -> None:
    recipe, result = RunFolder.open(place / "adapted").resolved(), result_of(place / "adapted")
    vocab = RunFolder.open(place / "adapted").manifest()["vocab_size"]
    all_of_them, adapters = parameter_count(recipe.model, vocab), trained_count(recipe.model, vocab, recipe.finetuning)
    assert (result["parameters"], result["trained_parameters"]) == (all_of_them, adapters)
    assert check_disk(2**40, recipe, vocab) == 4 * all_of_them + adapters * (3 * 12 + 2 * 4 + 4), "one snapshot"
    written = sum(path.stat().st_size for path in (place / "adapted").rglob("*.safetensors"))
    assert written < check_disk(2**40, recipe, vocab) + 20_000  # the headers
    heard = Heard()
    create_run(lora_recipe(place), place / "told", heard.say)
    pick_up(RunFolder.open(place / "told"), heard)
    assert any(f"{adapters:,} in adapters beside {all_of_them:,} parameters" in text for text in heard.said)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_a_run_says_of_itself_is_what_its_folder_gives(place: Path, tmp_path: Path, precision: str) -> None:
    out = place / "adapted"
    if precision == "bf16":
        out = tmp_path / "half"
        train(lora_recipe(place, {"training.precision": precision}), out)
    corpus, model = open_corpus(place / "text"), load_model(RunFolder.open(out), device="cpu")
    found = evaluate_units(
        ModelScorer(model).windows, corpus.split("test"), 64, symbol_bytes=byte_lengths(corpus.tokenizer)
    ).summary()
    assert found.nats_per_token == result_of(out)["test"]["nats_per_token"]
    assert not any(is_adapter(name) for name, _ in model.named_parameters())
    before = result_of(place / "base")["test"]["nats_per_token"]
    assert found.nats_per_token < before - 0.01


def test_weights_of_all_moments_are_whole_models(place: Path) -> None:
    folder, base = RunFolder.open(place / "adapted"), load_model(RunFolder.open(place / "base"), device="cpu")
    begin = dict(load_model(folder, 0, "cpu").named_parameters())
    assert all(torch.equal(part, begin[name]) for name, part in base.named_parameters())
    moved = dict(load_model(folder, "best", "cpu").named_parameters())
    assert {name for name in moved if not torch.equal(moved[name], begin[name])} == {
        f"blocks.0.{layer}.weight" for layer in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    }


def test_a_run_that_is_resumed_gives_the_same_bits(place: Path, tmp_path: Path) -> None:
    create_run(lora_recipe(place), tmp_path / "run")
    run = pick_up(RunFolder.open(tmp_path / "run"), Silent())
    stop = StopRequest()
    batches = run.batches()

    def until_seven() -> Any:
        for number, batch in enumerate(batches):
            if number == 7:
                stop.requested = True
            yield batch

    with pytest.raises(Terminated):
        loop.train_steps(run, until_seven(), stop)
    assert resume(tmp_path / "run")["test"] == result_of(place / "adapted")["test"]
    for name in (
        "metrics.jsonl",
        f"checkpoints/step-{STEPS:08d}/tensors.safetensors",
        "snapshots/best/tensors.safetensors",
    ):
        assert (tmp_path / "run" / name).read_bytes() == (place / "adapted" / name).read_bytes()


def test_with_patience_the_weights_are_the_best_ones(place: Path, tmp_path: Path) -> None:
    train(lora_recipe(place, {"training.patience": 1, "training.learning_rate": 3.0}), tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    found, best = (dict(load_model(folder, at, "cpu").named_parameters()) for at in ("final", "best"))
    assert all(torch.equal(found[name], best[name]) for name in best)
    assert all(map(is_adapter, load_file(folder.checkpoint(folder.checkpoint_steps()[-1])[0])))


def test_a_damaged_base_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "adapted", tmp_path / "run")
    file = tmp_path / "run/snapshots/base/tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    for read in (
        lambda: load_model(RunFolder.open(tmp_path / "run")),
        lambda: pick_up(RunFolder.open(tmp_path / "run"), Silent()),
    ):
        with pytest.raises(RunError, match=r"base/tensors\.safetensors is damaged"):
            read()


def test_another_run_begins_from_the_merged_weights(place: Path, tmp_path: Path) -> None:
    after = {"start.weights": str(place / "adapted"), "finetuning.lora_rank": None, "training.steps": 1}
    merged = dict(load_model(RunFolder.open(place / "adapted"), device="cpu").named_parameters())
    for name, changes in (("plain", after), ("again", after | {"finetuning.lora_rank": 3})):
        folder = create_run(lora_recipe(place, changes), tmp_path / name)
        begun = dict(load_model(folder, device="cpu").named_parameters())
        assert all(torch.equal(begun[key], merged[key]) for key in merged)
    lineage = folder.manifest()["lineage"]
    assert len(lineage) == 2
    assert lineage[1]["weights_sha256"] == RunFolder.open(place / "adapted").weights_sha256(
        RunFolder.open(place / "adapted").checkpoint(STEPS)[1]
    )


def test_two_adapters_on_one_base_share_nothing_that_is_trained(place: Path, tmp_path: Path) -> None:
    train(lora_recipe(place, {"seeds.init": 5, "finetuning.lora_layers": "mlp"}), tmp_path / "other")
    files = [load_file(RunFolder.open(run).snapshot("base")[0]) for run in (place / "adapted", tmp_path / "other")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    one, other = (load_model(RunFolder.open(run), device="cpu") for run in (place / "adapted", tmp_path / "other"))
    up = "blocks.0.mlp.up.weight"
    assert not torch.equal(one.get_parameter(up), other.get_parameter(up))
    assert torch.equal(other.get_parameter("blocks.0.attention.out.weight"), files[0]["blocks.0.attention.out.weight"])


def test_the_rank_is_part_of_what_a_run_is(place: Path) -> None:
    recipe = lora_recipe(place)
    other = recipe.replaced({"finetuning.lora_rank": 3})
    assert fingerprint(recipe, "c", None, "w") != fingerprint(other, "c", None, "w")


# What does not go together, and what is said.


def test_adapters_need_weights_to_go_beside(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"set start\.weights"):
        create_run(base_recipe(place, {"finetuning.lora_rank": 2}), tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{}, {"start.weights": "adapted", "finetuning.lora_rank": None}], ids=["to", "from"]
)
def test_moments_are_not_kept_across_adapters(place: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    if "start.weights" in changes:
        changes = changes | {"start.weights": str(place / "adapted")}
    with pytest.raises(RecipeError, match="begin anew"):
        create_run(lora_recipe(place, {"start.optimizer": "kept", **changes}), tmp_path / "run")


def test_frozen_rows_of_new_tokens_are_told_of(place: Path, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "a.jsonl", [alpaca(number) for number in range(20)])
    build_examples(
        [rows], tmp_path / "talk", "instructions", open_wording("chatml"), str(place / "base"), "hash:.7,.15,.15"
    )
    heard = Heard()
    create_run(lora_recipe(place, {"corpus": str(tmp_path / "talk")}), tmp_path / "run", heard.say)
    assert any("leave embeddings frozen" in text for text in heard.said)


# What it takes.


def test_memory_is_that_of_a_real_step() -> None:
    wide = {"model.d_model": 64, "model.context_length": 32, "training.global_batch_size": 8, "model.tie_weights": True}
    for changes in (
        {"execution.micro_batch_size": 8},
        {"execution.micro_batch_size": 2, "finetuning.lora_dropout": 0.1},
    ):
        recipe = tiny_recipe(LORA | wide | changes)
        backend = TorchBackend(recipe, VOCAB)
        state = backend.init()
        for step in range(2):
            backend.step(state, tiny_batch(recipe, step), step)
        weights = list(state.model.parameters())
        moments = [part for kept in state.optimizer.state.values() for part in kept.values() if part.dim()]
        memory = memory_of(recipe, VOCAB)
        assert memory.weights == sum(weight.nbytes for weight in weights)
        assert memory.optimizer == sum(moment.nbytes for moment in moments)
        state.optimizer.zero_grad(set_to_none=True)
        with Meter([*weights, *moments]) as meter:
            backend.step(state, tiny_batch(recipe, 2), 2)
        whole = meter.peak + memory.weights + memory.optimizer
        assert whole <= 1.06 * memory.total  # frozen layers need not keep what they read
        assert memory.total < 1.4 * whole
        with Meter([*weights, *moments]) as meter:
            merged = backend.model(state)
        del merged
        assert with_evaluation(memory, recipe, VOCAB, 0).total >= memory.total
        full = memory_of(
            recipe.replaced(
                {"finetuning.lora_rank": None, "finetuning.lora_alpha": None, "finetuning.lora_dropout": 0.0}
            ),
            VOCAB,
        )
        assert memory.total < full.total


def test_off_loading_and_checkpoints_are_of_what_is_trained() -> None:
    recipe = tiny_recipe(LORA | {"execution.optimizer_offload": True})
    adapters = trained_count(recipe.model, VOCAB, recipe.finetuning)
    assert offloaded_bytes(recipe, VOCAB) == 16 * adapters
    work = Work.of(recipe, VOCAB, {"validation": 100})
    assert (work.parameters, work.trained) == (parameter_count(recipe.model, VOCAB), adapters)
    forecast = forecast_here(recipe, VOCAB, {"validation": 100}, None, 0)
    assert forecast.disk_bytes == check_disk(2**40, recipe, VOCAB)
