"""Runs as models of EleutherAI's lm-evaluation-harness (extra `harness`), scored by our own scorer.

    python -m scratchlab.interop.harness run --model scratchlab --model_args run=runs/first --tasks hellaswag

All else is the harness's own command line. Its batch size is not heeded: batches are made by the tokens in them.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation.scorer import Question
from scratchlab.evaluation.subjects import run_subject
from scratchlab.extras import require
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import run_tokenizer, write
from scratchlab.model.build import Model
from scratchlab.model.load import At, load_model
from scratchlab.runfolder import RunFolder

NAME = "scratchlab"
QUESTIONS_AT_ONCE = 256
"""Between two signs of progress."""
TOKENS_WRITTEN = 256
"""At most, where a task does not say; the harness's own figure."""

Pair = tuple[Any, list[int], list[int]]
"""What the harness knows a pair by, and the tokens of the context and of what follows it."""


class Request(Protocol):
    """What the harness asks: a context with what follows it, a text, or a context with settings."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class RunModel:
    """A run as the harness wants a model to be; see its `TemplateLM`, with which this is joined in `register`."""

    def __init__(
        self, run: str, at: At = "final", device: str = "auto", batch_size: Any = None, **unheeded: Any
    ) -> None:
        """`batch_size` and others come from the harness's command line, and are not heeded."""
        super().__init__()
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"  # the harness says cuda:0 wherever nobody says otherwise
        self._place = run, at, device
        self._subject = run_subject(run, at, device)

    @property
    def eot_token_id(self) -> int:
        return self._subject.start

    @property
    def tokenizer_name(self) -> str:
        return self._subject.encoder.meaning

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unheeded: Any) -> list[int]:
        return self._subject.encoder.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **unheeded: Any
    ) -> list[tuple[float, bool]]:
        """Of each pair the log-probability in nats, and whether the model would write what follows."""
        from tqdm import tqdm

        together: dict[tuple[int, ...], list[int]] = {}
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        for place, (context, _) in enumerate(pairs):
            together.setdefault(tuple(context), []).append(place)
        asked = [
            (Question(np.array(context), tuple(np.array(pairs[place][1]) for place in own)), own)
            for context, own in together.items()
        ]
        asked.sort(key=lambda pair: -len(pair[0].prefix))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Scoring") as bar:
            for start in range(0, len(asked), QUESTIONS_AT_ONCE):
                chunk = asked[start : start + QUESTIONS_AT_ONCE]
                answers = self._subject.scorer.answers([question for question, _ in chunk])
                for (_, own), given in zip(chunk, answers, strict=True):
                    for place, answer in zip(own, given, strict=True):
                        found[place] = -float(answer.nats.sum(dtype=np.float64)), answer.greedy
                    bar.update(len(own))
        return found

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """With the beginning cut off where the model cannot see all of it, as the harness's own models do."""
        most = self._subject.context_length
        if not continuation or (most is not None and len(continuation) > most):
            raise UsageError(
                f"The harness asks for {len(continuation)} tokens after {len(context)}; {self._subject.name} can be "
                f"asked for 1 to {most or 'any number'} of them."
            )
        whole = [*context, *continuation][-(most + 1 if most else 0) :]
        return whole[: -len(continuation)], continuation

    def loglikelihood_rolling(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[float]:
        """Of each text the log-probability in nats, in windows that each begin with the last token before them."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

        most = self._subject.context_length or self._subject.window
        pairs: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.eot_token_id, most, 1):
                pairs.append((None, *make_disjoint_window(window)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(pairs, disable_tqdm), strict=True):
            sums[owner] += nats
        return sums

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first stop text."""
        from tqdm import tqdm

        tokenizer = run_tokenizer(RunFolder.open(self._place[0]))
        written: list[str] = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Writing"):
            context, wishes = request.args
            written.append("".join(write(self._model, tokenizer, context, _settings(wishes))))
        return written

    @functools.cached_property
    def _model(self) -> Model:
        run, at, device = self._place
        return load_model(RunFolder.open(run), at, device)


def _settings(wishes: dict[str, Any]) -> Settings:
    """The harness's words for ours. Greedy unless it says to draw."""
    until = wishes.get("until") or ()
    draws = wishes.get("do_sample", wishes.get("temperature", 0) > 0)
    return Settings(
        max_tokens=wishes.get("max_gen_toks", wishes.get("max_new_tokens", TOKENS_WRITTEN)),
        temperature=wishes.get("temperature", 1.0) if draws else 0.0,
        top_k=wishes.get("top_k") or None,
        top_p=wishes.get("top_p"),
        stop=[until] if isinstance(until, str) else list(until),
    )


@functools.cache
def register() -> type[Any]:
    """Make `scratchlab` known to the harness as a kind of model, and give its class. MissingExtraError without it."""
    require("The lm-evaluation-harness", "harness", "lm_eval")
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

    return register_model(NAME)(type("ScratchlabLM", (RunModel, TemplateLM), {}))


def main() -> None:
    """The harness's own command line, which knows one kind of model more."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

        cli_evaluate()
    except ScratchlabError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
