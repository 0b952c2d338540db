"""Our choices beside lm-evaluation-harness's, item by item, and the items per second of both, in one run.

    python benchmarks/harness_agreement.py DATA [--run RUN] [--items 200] [--rows 32] [--turns 5]

DATA is a folder with hellaswag/hellaswag_val.jsonl, evals/*.jsonl and gpt2_bpe/. Needs lm-evaluation-harness with its
Hugging Face models (`pip install 'lm-eval[hf]'`). The harness reads the same items from files, by task configurations
with the same wording. Its own model class scores a GPT-2 with random weights, and the export of RUN (a run folder, if
its model can be exported); its evaluator also asks our adapter for RUN. Both sides have the same precision (float32)
and at most as many rows in a batch; items that a model cannot see at once lose their beginning on both. Speed is wall
time, in turns; beside it the processor's time, which says more on a machine that others use too. Writes
benchmarks/results/harness_agreement.json with every item that differs.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scratchlab import hardware

hardware.prepare_process()  # as the `scratchlab` command does, before torch is loaded

import torch  # noqa: E402

import contest  # noqa: E402
from scratchlab.corpus.pretrained import open_tokenizer  # noqa: E402
from scratchlab.errors import RunError  # noqa: E402
from scratchlab.evaluation import batches  # noqa: E402
from scratchlab.evaluation.items import Wording, read_items  # noqa: E402
from scratchlab.evaluation.running import answered  # noqa: E402
from scratchlab.evaluation.subjects import Subject, run_subject  # noqa: E402
from scratchlab.evaluation.tasks import Record, Task, ask, chosen, chosen_by_character  # noqa: E402
from scratchlab.interop.exports import write_run  # noqa: E402
from scratchlab.interop.harness import register  # noqa: E402
from scratchlab.interop.subjects import open_subject  # noqa: E402
from scratchlab.runfolder import RunFolder  # noqa: E402

ROOT = Path(__file__).parent.parent
NOISE = 1e-3
"""In nats: two candidates nearer to each other than this may change places with the order of sums in float32."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rows", type=int, default=32, help="of a batch")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/harness_agreement.json")
    arguments = parser.parse_args()
    tasks = [*read_tasks(arguments.data, arguments.items)]
    results: dict[str, Any] = {
        "machine": contest.machine(),
        **{name: getattr(arguments, name) for name in ("items", "rows", "turns")},
        "precision": "float32",
        "models": {},
    }
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_gpt2(place / "gpt2", arguments.data)
        pairs = {
            "GPT-2 with random weights": (open_subject(str(place / "gpt2")), own_class(place / "gpt2", arguments.rows))
        }
        if arguments.run:
            pairs |= run_pairs(in_float32(arguments.run, place), place, arguments.rows)
        for model, (subject, lm) in pairs.items():
            results["models"][model] = {
                task.name: compare(subject, lm, task, place / "items", arguments) for task in tasks
            }
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


# Models.


def make_gpt2(folder: Path, data: Path) -> None:
    """A small GPT-2 with random weights, larger than it would begin with: its predictions are far from even."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    sizes = {"n_layer": 6, "n_head": 6, "n_embd": 144, "initializer_range": 0.1}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
    tokenizer = open_tokenizer(str(data / "gpt2_bpe"))
    assert tokenizer is not None
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024}
    ends = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ends), encoding="utf-8")


def own_class(folder: Path, rows: int) -> Any:
    """The harness's own model class for Hugging Face's."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=rows)


def in_float32(run: Path, place: Path) -> Path:
    """A copy of a run that is scored in float32 whatever it was trained in, since the harness's class does so."""
    copy = place / run.name
    shutil.copytree(run, copy)
    resolved = json.loads((copy / "resolved.json").read_text(encoding="utf-8"))
    resolved["training"]["precision"] = "float32"
    (copy / "resolved.json").write_text(json.dumps(resolved), encoding="utf-8")
    return copy


def run_pairs(run: Path, place: Path, rows: int) -> dict[str, tuple[Subject, Any]]:
    """Our run: beside the harness's class for its export, and beside our adapter."""
    subject = run_subject(run, device="cpu")
    pairs = {f"{run.name}, by the adapter": (subject, register()(run=str(run), device="cpu"))}
    try:
        write_run(RunFolder.open(run), place / "export")
    except RunError as error:
        print(f"Not exported: {error}")
        return pairs
    return {f"{run.name}, its export by the harness's class": (subject, own_class(place / "export", rows)), **pairs}


# Tasks, on both sides.


def read_tasks(data: Path, items: int) -> Iterator[Task]:
    """The four sets, worded as the harness words them."""
    sets: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
        "hellaswag": (
            "hellaswag/hellaswag_val.jsonl",
            lambda row: {"query": row["ctx"], "choices": row["endings"], "gold": row["label"]},
        ),
        "lambada": ("evals/lambada_openai.jsonl", lambda row: row),
        "piqa": ("evals/piqa.jsonl", with_answer),
        "arc_easy": ("evals/arc_easy.jsonl", with_answer),
    }
    for name, (path, reword) in sets.items():
        lines = (data / path).read_text(encoding="utf-8").splitlines()[:items]
        rows = ((f"{path}:{number}", reword(json.loads(line))) for number, line in enumerate(lines, start=1))
        yield Task(name, tuple(read_items(rows)), Wording())


def with_answer(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"query": f"{row['query'].strip()}\nAnswer:"}


def harness_config(task: Task, folder: Path) -> dict[str, Any]:
    """The task as the harness has it: a configuration, over a file with the same items that is written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path, first = folder / f"{task.name}.jsonl", task.items[0]
    rows = [{"contexts": item.contexts, "continuations": item.continuations, "gold": item.gold} for item in task.items]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "target_delimiter": task.wording.delimiter,
    }
    if len(first.continuations) == 1:
        target = f"{task.wording.delimiter}{{{{continuations[0]}}}}"
        return common | {
            "output_type": "loglikelihood",
            "doc_to_text": "{{contexts[0]}}",
            "doc_to_target": target,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    differ = len(set(first.contexts)) > 1
    return common | {
        "output_type": "multiple_choice",
        "doc_to_text": "gold" if differ else "{{contexts[0]}}",
        "doc_to_choice": "contexts" if differ else "continuations",
        "doc_to_target": "{{continuations[0]}}" if differ else "gold",
        "metric_list": [{"metric": "acc"}],
    }


def harness_records(lm: Any, task: Task, folder: Path) -> tuple[list[Record], Any]:
    """What the harness's evaluator finds of each item with `lm`, in our terms; and its task, for its requests."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    theirs: Any = ConfigurableTask(config=harness_config(task, folder))
    outcome: Any = evaluate(lm, {task.name: theirs}, bootstrap_iters=0, log_samples=True)
    samples = sorted(outcome["samples"][task.name], key=lambda sample: sample["doc_id"])
    answers = [[tuple(response[0]) for response in sample["resps"]] for sample in samples]
    return [
        {
            "item": item.number,
            "gold": item.gold,
            "nats": [-log_probability for log_probability, _ in given],
            "greedy": [greedy for _, greedy in given],
            "characters": [len(continuation) for continuation in item.continuations],
        }
        for item, given in zip(task.items, answers, strict=True)
    ], theirs


def our_records(subject: Subject, task: Task) -> list[Record]:
    return answered(
        subject, task, [(place, *ask(task, place, subject, truncate=True)) for place in range(len(task.items))]
    )


def choices(record: Record) -> tuple[Any, ...]:
    """What is decided of an item: the likeliest candidate, the likeliest a character; of a single one, if it is met."""
    if len(record["nats"]) == 1:
        return (bool(record["greedy"][0]),)
    return chosen(record), chosen_by_character(record)


def differing(ours: Sequence[Record], theirs: Sequence[Record]) -> list[dict[str, Any]]:
    """The items that are decided otherwise, with both sides' numbers, and whether those say why."""
    return [
        {
            "item": mine["item"],
            "ours": {name: mine[name] for name in ("nats", "greedy", "tokens")},
            "theirs": {name: other[name] for name in ("nats", "greedy")},
            "chosen": {"ours": choices(mine), "theirs": choices(other)},
            "why": explanation(mine, other),
        }
        for mine, other in zip(ours, theirs, strict=True)
        if choices(mine) != choices(other)
    ]


def difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest of a candidate, in nats."""
    return max(abs(a - b) for a, b in zip(mine["nats"], other["nats"], strict=True))


def explanation(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    apart = difference(mine, other)
    if apart > NOISE:
        return f"the losses differ by {apart:.4f} nats: not the same tokens, or not the same model"
    return f"two candidates are nearer to each other than what the order of sums changes (losses agree to {apart:.1e})"


def compare(subject: Subject, lm: Any, task: Task, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Agreement and speed of both on one task."""
    theirs, requests = harness_records(lm, task, folder)
    asked = [question for place in range(len(task.items)) for question in ask(task, place, subject, truncate=True)[0]]
    longest = max(map(batches.width, asked))
    before = batches.TOKENS_AT_ONCE["cpu"]
    batches.TOKENS_AT_ONCE["cpu"] = min(before, arguments.rows * longest)
    ours = our_records(subject, task)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    work: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {
        "ours": lambda: our_records(subject, task),
        "theirs": lambda: lm.loglikelihood(requests.instances, disable_tqdm=True),
    }
    for turn in range(arguments.turns):
        for side in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            start, worked = time.perf_counter(), time.process_time()
            sides[side]()
            seconds[side].append(time.perf_counter() - start)
            work[side].append(time.process_time() - worked)
    batches.TOKENS_AT_ONCE["cpu"] = before
    rates, thrift = (
        {side: len(task.items) / statistics.median(times) for side, times in taken.items()} for taken in (seconds, work)
    )
    otherwise = differing(ours, theirs)
    apart = max(difference(mine, other) for mine, other in zip(ours, theirs, strict=True))
    return {
        "items": len(task.items),
        "cut": sum(record["cut"] > 0 for record in ours),
        "agreed": len(task.items) - len(otherwise),
        "largest_difference_in_nats": apart,
        "items_per_second": rates,
        "times_as_fast": rates["ours"] / rates["theirs"],
        "items_per_processor_second": thrift,
        "times_as_thrifty": thrift["ours"] / thrift["theirs"],
        "differing": otherwise,
    }


if __name__ == "__main__":
    main()
