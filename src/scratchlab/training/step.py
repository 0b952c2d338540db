"""One optimizer step in PyTorch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.corpus.loader import share
from scratchlab.corpus.windows import Batch, Packing, Paired
from scratchlab.evaluation.processes import gathered
from scratchlab.evaluation.scorer import ModelScorer, Scorer
from scratchlab.hardware import CUBLAS_WORKSPACE, allow_tf32, compute_dtype, keep_freed_memory
from scratchlab.model.build import Model, empty_model
from scratchlab.model.initialize import initialize
from scratchlab.model.lora import adapt, merged
from scratchlab.model.loss import Objective
from scratchlab.model.preferences import Preferences
from scratchlab.model.rnn import Carried
from scratchlab.recipe import Recipe, Settled
from scratchlab.seeds import noise_seed
from scratchlab.training.offload import fetch_weights, host_copies, send_gradients
from scratchlab.training.optimizers import MOMENTS, make_optimizer, update
from scratchlab.training.parallel import fill, in_full, local, spread_of, whole_model
from scratchlab.training.schedule import learning_rate
from scratchlab.training.world import ALONE, World

FIRST_LOSS_SCALE = 2.0**16  # fp16 only: gradients are multiplied by it so that small ones do not vanish
STEPS_BEFORE_GROWTH = 2000  # after so many good steps the scale doubles; a bad one halves it


def fresh_extras(settled: Settled) -> dict[str, Any]:
    """What a checkpoint of fresh weights holds besides tensors."""
    return {"loss_scale": FIRST_LOSS_SCALE if settled.precision == "fp16" else 1.0, "good_steps": 0}


@dataclass
class TorchState:
    """What a step changes."""

    model: Model
    objective: Any
    """`Objective(model)`, or `Preferences`: compiled if the recipe says so, and spread over the run's processes."""
    parameters: dict[str, torch.nn.Parameter]
    """Those that are trained, all or the adapters alone; found once, for looking goes through every module."""
    updated: dict[str, torch.nn.Parameter]
    """What the optimizer moves: the same, or their copies on the CPU (`execution.optimizer_offload`)."""
    optimizer: torch.optim.Optimizer
    loss_scale: Tensor
    good_steps: Tensor
    carried: Carried | None = None
    """What a recurrent network remembers of the batch before, in this process's rows of it."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of a batch that go through the model together, on the device."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    weights: Tensor  # (B, T)
    first_sequence: int
    """As in the batch: counted from the start of the run."""
    blank: bool = False
    """Whether it stands in where a process has fewer of them than another: nothing in it counts."""
    packing: tuple[Tensor, ...] = ()
    """The texts that its tokens belong to and their places in them, both (B, T), where several share a row; of pairs
    the margins, too (`corpus.windows.Paired`)."""


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A batch on the device, or on its way there: what the device computes after the copy waits for it, nobody else."""

    micro_batches: list[MicroBatch]
    weight: float
    """Of all targets, or pairs, of this process."""
    continues: bool


class TorchBackend:
    """The arithmetic of a resolved recipe on one device. See `scratchlab.training.backend.Backend`.

    With several processes each has one, takes its share of every batch, and comes to the same update.
    """

    def __init__(
        self,
        recipe: Recipe,
        vocab_size: int,
        end_of_text: int | None = None,
        world: World = ALONE,
        pairs: bool = False,
    ) -> None:
        """`pairs`: batches are of pairs, and what is learned is which answer of two is better."""
        self.recipe, self.settled, self.vocab_size, self.end_of_text = recipe, recipe.settled, vocab_size, end_of_text
        self.world, self.pairs = world, pairs
        self.device = self.world.device(self.settled.device)
        self.spread = spread_of(self.world, self.settled.shard)
        keep_freed_memory()
        torch.set_num_threads(self._threads())
        self._claim_device()
        if recipe.execution.deterministic:
            os.environ.setdefault(
                "CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE
            )  # cuBLAS asks for it, and says so only late
        torch.use_deterministic_algorithms(recipe.execution.deterministic)
        allow_tf32(self.settled.precision)

    def _claim_device(self) -> None:
        """Make the card of this process the one of this thread: what it pins would claim memory of the first card."""
        if self.device.startswith("cuda:"):
            torch.cuda.set_device(self.device)

    def _threads(self) -> int:
        """As settled; on another number of processes than the run was made for, as many threads in all."""
        return max(1, self.settled.threads * self.settled.processes // self.world.size)

    def init(self) -> TorchState:
        recipe, device, compile = self.recipe, self.device, self.settled.compile
        model = self._empty_model()
        self.spread.shard(model, device, compile)
        initialize(model, model.initial_table(), recipe.seeds.init, device, fill)
        learned = Preferences(model, recipe.finetuning.beta) if self.pairs else Objective(model)
        objective = self.spread.wrap(learned, compile)
        scale, good_steps = (torch.tensor(value, device=device) for value in fresh_extras(self.settled).values())
        parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        updated = host_copies(parameters) if recipe.execution.optimizer_offload else parameters
        optimizer = make_optimizer(list(updated.values()), recipe.training)
        if self.world.size > 1:
            self._rehearse(objective)
        return TorchState(model, objective, parameters, updated, optimizer, scale, good_steps)

    def _empty_model(self) -> Model:
        dtype = compute_dtype(self.settled.precision)
        recompute = self.recipe.execution.activation_checkpointing
        model = empty_model(self.recipe.model, self.vocab_size, dtype, self.end_of_text, recompute)
        return adapt(model, self.recipe.finetuning)

    def _rehearse(self, objective: Any) -> None:
        """DDP lays its buckets out by the first backward pass it sees, and sums of many processes depend on them: a run
        that is resumed must not see another first one than it saw when it was begun."""
        blank = self._blank(Paired if self.pairs else None)
        with self.spread.passing(objective, True):
            objective(blank.tokens, blank.targets, blank.weights, None, *blank.packing)[0].backward()
        objective.zero_grad(set_to_none=True)

    def send(self, batch: Batch) -> SentBatch:
        """Called by the thread that reads ahead.

        On CUDA the copies go into the stream that computes, so that its order is all the synchronizing there is. A
        stream of their own would win little: 20 bytes a token take a nanosecond, computing with it takes hundreds.
        """
        self._claim_device()
        micro_batches = [
            MicroBatch(
                self._on_device(micro.tokens),
                self._on_device(micro.targets),
                self._on_device(micro.weights),
                micro.first_sequence,
                packing=tuple(map(self._on_device, micro.packing or ())),
            )
            for micro in batch.split(self.settled.micro_batch_size)
        ]
        if self.world.size > 1:  # all go through the model as often as the one with the most rows
            blank = self._blank(None if batch.packing is None else type(batch.packing))
            micro_batches += [blank for _ in range(len(micro_batches), self._passes)]
        return SentBatch(micro_batches, batch.weight, batch.continues)

    @property
    def _rows(self) -> int:
        """The most sequences of a step that are one process's."""
        return -(-self.recipe.training.global_batch_size // self.world.size)

    @property
    def _passes(self) -> int:
        return -(-self._rows // self.settled.micro_batch_size)

    def _blank(self, packed: type[Packing | Paired] | None) -> MicroBatch:
        shape = min(self._rows, self.settled.micro_batch_size), self.recipe.model.context_length
        # Two tensors: torch.compile would make a graph of its own for tokens that are the targets too.
        tokens, targets = (torch.zeros(shape, dtype=torch.int64, device=self.device) for _ in range(2))
        packing = (torch.zeros_like(tokens), torch.arange(shape[1], device=self.device).expand(shape)) if packed else ()
        packing += (torch.zeros(shape[0], device=self.device),) if packed is Paired else ()
        return MicroBatch(tokens, targets, torch.zeros(shape, device=self.device), 0, blank=True, packing=packing)

    def step(self, state: TorchState, batch: Batch | SentBatch, step: int) -> tuple[TorchState, dict[str, Tensor]]:
        """Accumulate the gradient of the mean loss over the batch, then update. Never waits for the device."""
        metrics = self._accumulate_gradients(state, self.send(batch) if isinstance(batch, Batch) else batch, step)
        gradients = [parameter.grad for parameter in state.parameters.values() if parameter.grad is not None]
        norm = clipped_norm = _norm(gradients) / state.loss_scale
        skipped = ~torch.isfinite(norm)
        if self.recipe.training.clip_value:  # an infinite gradient would come out of it as a finite one
            limit = self.recipe.training.clip_value * state.loss_scale
            for gradient in gradients:
                local(gradient).clamp_(-limit, limit)
            clipped_norm = _norm(gradients) / state.loss_scale
        self._update(state, clipped_norm, skipped, step)
        return state, {**metrics, "gradient_norm": norm, "skipped": skipped}

    def _accumulate_gradients(self, state: TorchState, batch: SentBatch, step: int) -> dict[str, Tensor]:
        """Leaves the gradient, times the loss scale, in `.grad`; gives the mean loss in nats, and of pairs the share of
        which the chosen answer has gained more than the rejected one, and by how many nats. All of all processes."""
        if not state.model.training:
            state.model.train()
        for parameter in state.parameters.values():
            parameter.grad = None
        loss, weight = torch.zeros((), device=self.device), self._total_weight(batch)
        carried, ends = state.carried if batch.continues else None, list[Carried]()
        told = torch.zeros(2, device=self.device)
        for micro in batch.micro_batches:
            self._seed_noise(noise_seed(self.recipe.seeds.noise, step, micro.first_sequence))
            row = micro.first_sequence - batch.micro_batches[0].first_sequence
            remembered = None if carried is None or micro.blank else carried.rows(row, row + len(micro.tokens))
            with self.spread.passing(state.objective, micro is batch.micro_batches[-1]):
                loss_sum, end = self._backward(state, micro, remembered, state.loss_scale / weight)
            if isinstance(end, Carried) and not micro.blank:
                ends.append(end)
            loss += loss_sum / weight
            if isinstance(end, Tensor):
                told += end / weight
        state.carried = Carried.joined(ends) if ends else None
        if not self.pairs:
            return {"loss": self.world.total(loss)}
        accuracy, margin = self.world.total(told)
        return {"loss": self.world.total(loss), "accuracy": accuracy, "margin": margin}

    def _backward(
        self, state: TorchState, micro: MicroBatch, remembered: Carried | None, factor: Tensor
    ) -> tuple[Tensor, Any]:
        """Add the gradient of the loss sum times `factor` to `.grad`; gives the sum, and what is remembered, or told of
        pairs.

        In fp16 the factor weighs the targets. The chunked loss takes its gradients as it goes forward, and without the
        factor, which holds the loss scale, they would vanish in fp16, or be infinite at whatever scale.
        """
        if self.settled.precision != "fp16":
            loss_sum, _, end = state.objective(micro.tokens, micro.targets, micro.weights, remembered, *micro.packing)
            (loss_sum * factor).backward()
            return loss_sum.detach(), end
        weights = micro.weights * factor
        scaled_sum, _, end = state.objective(micro.tokens, micro.targets, weights, remembered, *micro.packing)
        scaled_sum.backward()
        return scaled_sum.detach() / factor, end / factor if self.pairs else end

    def _total_weight(self, batch: SentBatch) -> float | Tensor:
        """Of the global batch: what every gradient is divided by. 1 where nothing counts: all gradients are 0 then."""
        if self.world.size == 1:
            return batch.weight or 1.0
        total = self.world.total(torch.full((), batch.weight, device=self.device))
        return torch.where(total > 0, total, 1.0)

    def _seed_noise(self, seed: int) -> None:
        """`torch.manual_seed`, for this run's device alone: looking for all others takes half a millisecond."""
        torch.default_generator.manual_seed(seed)
        if self.device.startswith("cuda"):
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)
        elif self.device == "mps":
            torch.mps.manual_seed(seed)

    def _update(self, state: TorchState, norm: Tensor, skipped: Tensor, step: int) -> None:
        """One step of the optimizer, with clipping and loss scale folded into one division."""
        training = self.recipe.training
        clip = (training.clip_norm / (norm + 1e-6)).clamp(max=1.0) if training.clip_norm else torch.ones_like(norm)
        rate = learning_rate(training, step, self.settled.steps_before + self.settled.steps)
        divisor = state.loss_scale / clip
        if self.recipe.execution.optimizer_offload:
            send_gradients(state.parameters, state.updated)
            update(state.optimizer, rate, divisor.cpu(), skipped.cpu())
            fetch_weights(state.parameters, state.updated)
        else:
            update(state.optimizer, rate, divisor, skipped)
        if self.settled.precision == "fp16":
            self._adapt_loss_scale(state, skipped)

    def _adapt_loss_scale(self, state: TorchState, skipped: Tensor) -> None:
        state.good_steps = torch.where(skipped, 0, state.good_steps + 1)
        grown = state.good_steps >= STEPS_BEFORE_GROWTH
        factor = torch.where(skipped, 0.5, torch.where(grown, 2.0, 1.0))
        state.loss_scale = state.loss_scale * factor
        state.good_steps = torch.where(grown, 0, state.good_steps)

    def _on_device(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def scorer(self, state: TorchState) -> Scorer:
        return ModelScorer(self.model(state))

    def model(self, state: TorchState) -> Model:
        return merged(whole_model(state.model, self._empty_model)).eval()

    def weights(self, state: TorchState) -> dict[str, Tensor]:
        return self._in_main_memory({name: parameter.detach() for name, parameter in state.parameters.items()})

    def tensors(self, state: TorchState) -> dict[str, Tensor]:
        kept = self.weights(state)
        for name, updated in state.updated.items():
            moments = state.optimizer.state[updated]
            kept |= self._in_main_memory({f"{name}.{part}": moments[part] for part in MOMENTS if part in moments})
        for number, part in enumerate(self._gathered_memory(state)):
            kept[f"carried.{number}"] = part.cpu().contiguous()
        return kept

    def _in_main_memory(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of each: gathered one at a time, and only the first process keeps it."""
        kept: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            full = in_full(tensor)
            if self.world.first:
                kept[name] = full.cpu()
        return kept

    def _gathered_memory(self, state: TorchState) -> Sequence[Tensor]:
        """What a recurrent network carries, of all rows of the batch."""
        if self.world.size == 1 or not self.recipe.model.remembers:
            return state.carried.parts if state.carried else ()
        own = [Carried(tuple(part.cpu() for part in state.carried.parts))] if state.carried else []
        everybodys = gathered(own)
        return Carried.joined(everybodys).parts if everybodys else ()

    def extras(self, state: TorchState) -> dict[str, Any]:
        return {"loss_scale": float(state.loss_scale), "good_steps": int(state.good_steps)}

    def restore(self, tensors: Mapping[str, Tensor], extras: Mapping[str, Any]) -> TorchState:
        state = self.init()
        with torch.no_grad():
            for name, frozen in state.model.named_parameters():
                if name not in state.parameters:
                    fill(frozen, tensors[name])
            for name, updated in state.updated.items():
                for weight in {state.parameters[name], updated}:
                    fill(weight, tensors[name])
                for part in MOMENTS:
                    if f"{name}.{part}" in tensors:
                        full = tensors[f"{name}.{part}"]
                        moment = torch.empty_like(updated if full.dim() else full, device=updated.device)
                        fill(moment, full)
                        state.optimizer.state[updated][part] = moment
        carried = [tensors[name].to(self.device) for name in sorted(tensors) if name.startswith("carried.")]
        if carried:
            first, end = share(carried[0].shape[1], self.world.rank, self.world.size)
            state.carried = Carried(tuple(carried)).rows(first, end) if end > first else None
        state.loss_scale.fill_(extras["loss_scale"])
        state.good_steps.fill_(extras["good_steps"])
        return state


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """Of all gradients together, wherever their parts are."""
    return in_full(torch.nn.utils.get_total_norm(gradients))
