"""What the loop needs of whatever does the arithmetic. One loop serves every implementation."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from scratchlab.corpus.windows import Batch
from scratchlab.evaluation.scorer import Scorer
from scratchlab.model.build import Model


class Backend(Protocol):
    """Arithmetic on one model. `State` is opaque to the loop: weights, moments and whatever else a step changes."""

    def init(self) -> Any:
        """The state before the first step, a function of the recipe."""
        ...

    def send(self, batch: Batch) -> Any:
        """The batch on the device, or on its way there: what `step` takes. Called ahead of it, by another thread."""
        ...

    def step(self, state: Any, batch: Any, step: int) -> tuple[Any, Mapping[str, Any]]:
        """The update at place `step` of the schedule, with a batch that was sent.

        The metrics (`loss`, `gradient_norm`, `skipped`) may still be under way on the device.
        """
        ...

    def scorer(self, state: Any) -> Scorer:
        """Scores tokens with the weights as they are."""
        ...

    def model(self, state: Any) -> Model:
        """The weights as they are, as a torch model in evaluation mode; adapters are merged into it."""
        ...

    def weights(self, state: Any) -> dict[str, Tensor]:
        """Those that are trained, on the CPU, by parameter name: all of them, or the adapters alone."""
        ...

    def tensors(self, state: Any) -> dict[str, Tensor]:
        """Everything to keep, on the CPU: the same, and their moments as `name.exp_avg` and so on."""
        ...

    def extras(self, state: Any) -> dict[str, Any]:
        """What else must be kept, as JSON."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], extras: Mapping[str, Any]) -> Any:
        """The state that gave these tensors and extras. Frozen weights are among the tensors too."""
        ...
