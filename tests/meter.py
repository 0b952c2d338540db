"""How many bytes of tensors are alive: counted as PyTorch makes them and lets go of them."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Counts the storages that operators make while it is on, but for those of tensors that were there before."""

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.calls = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += not func.is_view
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, which: int) -> None:
        self.live -= self._sizes.pop(which)


class PatientMeter(Meter):
    """The same where storages grow and shrink under way, as FSDP2's do: all are looked at anew at every operator.

    Tensors that were there before count too.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref[Any]] = {}
        self.look(there)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.look(leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result

    def look(self, tensors: Iterable[Tensor] = ()) -> int:
        """How many bytes there are now, of all that was seen and of these."""
        for tensor in tensors:
            storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()  # of a part of a tensor: the part
            self._storages[storage._cdata] = weakref.ref(storage)
        self.live = sum(storage.nbytes() for known in self._storages.values() if (storage := known()) is not None)
        self.peak = max(self.peak, self.live)
        return self.live
