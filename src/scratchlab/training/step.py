"""One optimizer step in PyTorch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.corpus.windows import Batch
from scratchlab.evaluation.scorer import ModelScorer, Scorer
from scratchlab.hardware import CUBLAS_WORKSPACE, allow_tf32, compute_dtype, keep_freed_memory
from scratchlab.model.build import Model, build_model
from scratchlab.model.loss import Objective
from scratchlab.model.rnn import Carried
from scratchlab.recipe import Recipe
from scratchlab.seeds import noise_seed
from scratchlab.training.offload import fetch_weights, host_copies, send_gradients
from scratchlab.training.optimizers import MOMENTS, make_optimizer, update
from scratchlab.training.schedule import learning_rate

FIRST_LOSS_SCALE = 2.0**16  # fp16 only: gradients are multiplied by it so that small ones do not vanish
STEPS_BEFORE_GROWTH = 2000  # after so many good steps the scale doubles; a bad one halves it


@dataclass
class TorchState:
    """What a step changes."""

    model: Model
    objective: Any
    """`Objective(model)`, compiled if the recipe says so."""
    parameters: list[torch.nn.Parameter]
    """The model's, found once: looking for them goes through every module."""
    updated: list[torch.nn.Parameter]
    """What the optimizer moves: the same, or their copies on the CPU (`execution.optimizer_offload`)."""
    optimizer: torch.optim.Optimizer
    loss_scale: Tensor
    good_steps: Tensor
    carried: Carried | None = None
    """What a recurrent network remembers of the batch before."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of a batch that go through the model together, on the device."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    weights: Tensor  # (B, T)
    first_sequence: int
    """As in the batch: counted from the start of the run."""


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A batch on the device, or on its way there: what the device computes after the copy waits for it, nobody else."""

    micro_batches: list[MicroBatch]
    total_weight: float
    continues: bool


class TorchBackend:
    """The arithmetic of a resolved recipe on one device. See `scratchlab.training.backend.Backend`."""

    def __init__(self, recipe: Recipe, vocab_size: int, end_of_text: int | None = None) -> None:
        self.recipe, self.settled, self.vocab_size, self.end_of_text = recipe, recipe.settled, vocab_size, end_of_text
        keep_freed_memory()
        torch.set_num_threads(self.settled.threads)
        if recipe.execution.deterministic:
            os.environ.setdefault(
                "CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE
            )  # cuBLAS asks for it, and says so only late
        torch.use_deterministic_algorithms(recipe.execution.deterministic)
        allow_tf32(self.settled.precision)

    def init(self) -> TorchState:
        recipe, device = self.recipe, self.settled.device
        dtype = compute_dtype(self.settled.precision)
        recompute = recipe.execution.activation_checkpointing
        model = build_model(
            recipe.model, self.vocab_size, recipe.seeds.init, dtype, device, self.end_of_text, recompute
        )
        objective = Objective(model)
        if self.settled.compile:
            objective.compile(dynamic=False)
        scale = torch.tensor(FIRST_LOSS_SCALE if self.settled.precision == "fp16" else 1.0, device=device)
        parameters, good_steps = list(model.parameters()), torch.tensor(0, device=device)
        updated = host_copies(parameters) if recipe.execution.optimizer_offload else parameters
        optimizer = make_optimizer(updated, recipe.training)
        return TorchState(model, objective, parameters, updated, optimizer, scale, good_steps)

    def send(self, batch: Batch) -> SentBatch:
        """Called by the thread that reads ahead.

        On CUDA the copies go into the stream that computes, so that its order is all the synchronizing there is. A
        stream of their own would win little: 20 bytes a token take a nanosecond, computing with it takes hundreds.
        """
        micro_batches = [
            MicroBatch(
                self._on_device(micro.tokens),
                self._on_device(micro.targets),
                self._on_device(micro.weights),
                micro.first_sequence,
            )
            for micro in batch.split(self.settled.micro_batch_size)
        ]
        return SentBatch(micro_batches, float(batch.weights.sum()), batch.continues)

    def step(self, state: TorchState, batch: Batch | SentBatch, step: int) -> tuple[TorchState, dict[str, Tensor]]:
        """Accumulate the gradient of the mean loss over the batch, then update. Never waits for the device."""
        loss = self._accumulate_gradients(state, self.send(batch) if isinstance(batch, Batch) else batch, step)
        gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
        norm = clipped_norm = torch.nn.utils.get_total_norm(gradients) / state.loss_scale
        skipped = ~torch.isfinite(norm)
        if self.recipe.training.clip_value:  # an infinite gradient would come out of it as a finite one
            limit = self.recipe.training.clip_value * state.loss_scale
            for gradient in gradients:
                gradient.clamp_(-limit, limit)
            clipped_norm = torch.nn.utils.get_total_norm(gradients) / state.loss_scale
        self._update(state, clipped_norm, skipped, step)
        return state, {"loss": loss, "gradient_norm": norm, "skipped": skipped}

    def _accumulate_gradients(self, state: TorchState, batch: SentBatch, step: int) -> Tensor:
        """Leaves the gradient, times the loss scale, in `.grad`; gives the mean loss in nats."""
        if not state.model.training:
            state.model.train()
        for parameter in state.parameters:
            parameter.grad = None
        loss = torch.zeros((), device=self.settled.device)
        carried, ends = state.carried if batch.continues else None, []
        for micro in batch.micro_batches:
            self._seed_noise(noise_seed(self.recipe.seeds.noise, step, micro.first_sequence))
            row = micro.first_sequence - batch.micro_batches[0].first_sequence
            remembered = carried and carried.rows(row, row + len(micro.tokens))
            loss_sum, _, end = state.objective(micro.tokens, micro.targets, micro.weights, remembered)
            ends.append(end)
            (loss_sum * (state.loss_scale / batch.total_weight)).backward()
            loss += loss_sum.detach() / batch.total_weight
        state.carried = None if ends[0] is None else Carried.joined(ends)
        return loss

    def _seed_noise(self, seed: int) -> None:
        """`torch.manual_seed`, for this run's device alone: looking for all others takes half a millisecond."""
        torch.default_generator.manual_seed(seed)
        if self.settled.device.startswith("cuda"):
            with torch.cuda.device(self.settled.device):
                torch.cuda.manual_seed(seed)
        elif self.settled.device == "mps":
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
        if self.settled.device.startswith("cuda"):
            return tensor.pin_memory().to(self.settled.device, non_blocking=True)
        return tensor.to(self.settled.device)

    def scorer(self, state: TorchState) -> Scorer:
        return ModelScorer(self.model(state))

    def model(self, state: TorchState) -> Model:
        return state.model.eval()

    def tensors(self, state: TorchState) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for (name, parameter), updated in zip(state.model.named_parameters(), state.updated, strict=True):
            kept[name] = parameter.detach().cpu()
            for part in MOMENTS:
                if part in state.optimizer.state[updated]:
                    kept[f"{name}.{part}"] = state.optimizer.state[updated][part].cpu()
        for number, part in enumerate(state.carried.parts if state.carried else ()):
            kept[f"carried.{number}"] = part.cpu().contiguous()
        return kept

    def extras(self, state: TorchState) -> dict[str, Any]:
        return {"loss_scale": float(state.loss_scale), "good_steps": int(state.good_steps)}

    def restore(self, tensors: Mapping[str, Tensor], extras: Mapping[str, Any]) -> TorchState:
        state = self.init()
        with torch.no_grad():
            for (name, parameter), updated in zip(state.model.named_parameters(), state.updated, strict=True):
                for weight in {parameter, updated}:
                    weight.copy_(tensors[name])
                for part in MOMENTS:
                    if f"{name}.{part}" in tensors:
                        state.optimizer.state[updated][part] = tensors[f"{name}.{part}"].to(updated.device)
        carried = [tensors[name].to(self.settled.device) for name in sorted(tensors) if name.startswith("carried.")]
        state.carried = Carried(tuple(carried)) if carried else None
        state.loss_scale.fill_(extras["loss_scale"])
        state.good_steps.fill_(extras["good_steps"])
        return state
