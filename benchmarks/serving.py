"""The server under load: `scratchlab serve` in a process of its own, and clients of OpenAI's API beside it.

    python benchmarks/serving.py [--rounds 5] [--requests 32] [--tokens 100]

The model has the shape of a recipe (10.7M parameters unless told otherwise) and fresh weights, spread so that it does
not repeat itself. In each round of a fresh server the same requests are sent one at a time, 16 at once, and 16 at once
as streams, in turns; then come 64 clients at once. Each greedy answer is compared with what the model writes alone:
where they part, the gap between the two logits says whether it is a tie. The clients share the cores with the server.

Needs `pip install 'scratchlab[serve]' openai`. Writes benchmarks/results/serving.json.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlab import hardware

hardware.prepare_process()  # as the `scratchlab` command does, before torch is loaded

import openai  # noqa: E402
import torch  # noqa: E402

import contest  # noqa: E402
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from scratchlab.generation.engine import Settings, cast_once, generate  # noqa: E402
from scratchlab.hardware import Precision  # noqa: E402
from scratchlab.model.build import Model, build_model  # noqa: E402
from scratchlab.model.load import load_model  # noqa: E402
from scratchlab.recipe_files import load_recipe  # noqa: E402
from scratchlab.runfolder import RunFolder  # noqa: E402
from scratchlab.training.checkpoint import write_tensors  # noqa: E402

ROOT = Path(__file__).parent.parent
SYMBOLS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 of Tiny Shakespeare."""
SPREAD = 3.0
TIE = 1e-4
MODES = {"one_at_a_time": (1, False), "clients_16": (16, False), "clients_16_streaming": (16, True)}
"""Requests at once, and whether they are streams."""


@dataclass(frozen=True)
class Asked:
    """A request, and its answer by the model alone."""

    prompt: str
    alone: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/shakespeare-char.toml")
    parser.add_argument("--rounds", type=int, default=5, help="of fresh servers")
    parser.add_argument("--requests", type=int, default=32, help="in each mode of a round")
    parser.add_argument("--clients", type=int, default=64, help="at once, after each round")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--only", nargs="*", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serving.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": contest.machine(), "recipe": arguments.recipe.name}
    results |= {"tokens": arguments.tokens, "requests": arguments.requests, "clients": arguments.clients}
    rates = {precision: hardware.matmul_rate("cpu", precision, size=256) for precision in arguments.only}
    for precision in arguments.only:
        if rates[precision] < max(rates.values()) / 20:
            results[precision] = {"left_out": f"this processor emulates {precision}"}
        else:
            with tempfile.TemporaryDirectory() as folder:
                results[precision] = measure(make_run(arguments.recipe, Path(folder) / "run"), precision, arguments)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def make_run(recipe_path: Path, path: Path) -> RunFolder:
    """A run of no steps with the recipe's shape."""
    recipe = load_recipe(recipe_path, ["training.steps=0", "training.precision=float32", "execution.device=cpu"])
    tokenizer = train_tokenizer("char", [SYMBOLS], end_of_text=False)
    model = build_model(recipe.model, tokenizer.vocab_size, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(SPREAD)
    manifest = {"fingerprint": "", "tokenizer_sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    settled = {"execution.compile": False, "execution.micro_batch_size": 1, "execution.threads": 1}
    begin = (lambda file: write_tensors(weights, file)), {}
    return RunFolder.create(path, recipe, recipe.replaced(settled), manifest, tokenizer.to_json(), begin)


def measure(run: RunFolder, precision: Precision, arguments: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = load_model(run, device="cpu", precision=precision), Tokenizer.load(run.tokenizer_path)
    asked = alone(model, tokenizer, max(arguments.requests, arguments.clients), arguments.tokens)
    seconds: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    many: list[float] = []
    outcome: dict[str, Any] = dict.fromkeys(
        ("answers", "errors", "the_same", "parted_at_a_tie", "parted_elsewhere", "largest_gap"), 0
    )
    for number in range(arguments.rounds):
        with served(run, precision) as url:
            client = Client(url, arguments.tokens)
            client.send(asked[:4], 4, streaming=False)  # warms up
            for mode in MODES if number % 2 else reversed(MODES):
                took, texts = client.send(asked[: arguments.requests], *MODES[mode])
                seconds[mode].append([took])
                judge(model, tokenizer, asked, texts, outcome)
            took, texts = client.send(asked[: arguments.clients], arguments.clients, streaming=bool(number % 2))
            many.append(took)
            judge(model, tokenizer, asked, texts, outcome)
    written = arguments.requests * arguments.tokens
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "throughput_16": contest.speed_ratio(seconds["clients_16"], seconds["one_at_a_time"]),
        "throughput_16_streaming": contest.speed_ratio(seconds["clients_16_streaming"], seconds["one_at_a_time"]),
        "tokens_per_second": {mode: [written / turns[0] for turns in seconds[mode]] for mode in MODES},
        "tokens_per_second_of_many": [arguments.clients * arguments.tokens / took for took in many],
        "different_answers": len({one.alone for one in asked}),
        **outcome,
    }


def alone(model: Model, tokenizer: Tokenizer, count: int, tokens: int) -> list[Asked]:
    """Prompts of 8 to 71 characters and more, and what each gives by itself."""
    generator, found = torch.Generator().manual_seed(1), list[Asked]()
    for length in torch.randint(8, 72, (count,), generator=generator).tolist():
        prompt = torch.randint(len(SYMBOLS), (length,), generator=generator).tolist()
        written = list(generate(model, prompt, Settings(max_tokens=tokens, temperature=0)))
        found.append(Asked(tokenizer.decode(prompt), tokenizer.decode(written)))
    return found


@contextmanager
def served(run: RunFolder, precision: Precision) -> Generator[str]:
    """A server of its own; gives its address."""
    command = [sys.executable, "-m", "scratchlab", "serve", str(run.path), "--port", "0", "--device", "cpu"]
    command += ["--precision", precision]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield found[0]
        finally:
            process.terminate()


class Client:
    """OpenAI's client, so many requests at a time."""

    def __init__(self, url: str, tokens: int) -> None:
        self.url, self.tokens = url, tokens

    def send(self, asked: Sequence[Asked], at_once: int, streaming: bool) -> tuple[float, list[str | None]]:
        """Seconds for all of them, and the answers; None where there was an error."""
        return asyncio.run(self._send(asked, at_once, streaming))

    async def _send(self, asked: Sequence[Asked], at_once: int, streaming: bool) -> tuple[float, list[str | None]]:
        client = openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=600)
        places, texts = iter(range(len(asked))), list[str | None]([None] * len(asked))

        async def ask(place: int) -> str:
            wish: dict[str, Any] = {"model": "run", "prompt": asked[place].prompt}
            wish |= {"max_tokens": self.tokens, "temperature": 0, "stream": streaming}
            answer = await client.completions.create(**wish)
            if not streaming:
                return answer.choices[0].text
            return "".join([chunk.choices[0].text async for chunk in answer])

        async def work() -> None:
            for place in places:
                try:
                    texts[place] = await ask(place)
                except openai.OpenAIError as error:
                    print(f"request {place}: {error}", file=sys.stderr)

        async with client:
            await client.models.list()  # the first connection is not part of it
            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(at_once)))
            return time.perf_counter() - start, texts


def judge(
    model: Model, tokenizer: Tokenizer, asked: Sequence[Asked], texts: Sequence[str | None], outcome: dict[str, Any]
) -> None:
    """Add to the outcome: is each answer that of the model alone, and if not, do they part at a tie?"""
    for one, text in zip(asked, texts, strict=False):
        outcome["answers"] += 1
        if text is None:
            outcome["errors"] += 1
        elif text == one.alone:
            outcome["the_same"] += 1
        else:
            gap = gap_where_they_part(model, tokenizer, one, text)
            outcome["largest_gap"] = max(outcome["largest_gap"], gap)
            outcome["parted_at_a_tie" if gap <= TIE else "parted_elsewhere"] += 1


@torch.inference_mode()
def gap_where_they_part(model: Model, tokenizer: Tokenizer, one: Asked, text: str) -> float:
    """Between the logits of the two characters at the first place where the texts differ."""
    place = next((n for n, (a, b) in enumerate(zip(one.alone, text, strict=False)) if a != b), None)
    if place is None:
        return float("inf")
    seen = tokenizer.encode(one.prompt + one.alone[:place]).tolist()
    logits = cast_once(model)(torch.tensor([seen]))[0][0, -1]
    ours, theirs = (int(tokenizer.encode(character)[0]) for character in (one.alone[place], text[place]))
    return abs(float(logits[ours] - logits[theirs]))


if __name__ == "__main__":
    main()
