"""A GPT of numbers beside the seasonal-naive forecast, on the last tenth of an hourly series that it never saw.

    python benchmarks/forecast.py [--seeds 3] [--years 12] [--threads 1]

The series is made here, the same every time, of what series of sales or loads are made of: a day and a week that
repeat, weekends of another shape, a year, noise that lasts for hours, a level that wanders, shifts at times and takes
months to come back. A corpus of it in 256 bins is what recipes/forecast.toml trains on. From the end of every day of
the test split on, the next 24 hours are forecast: the median of paths that are drawn one number after another. The
naive forecast is the same hour a week ago; beside it stand the same hour of the day before, and the mean of that hour
over four weeks. Errors are in the series' own unit, against the numbers as they were, not their bins. Standard errors
are over weeks, for the errors of neighboring days are alike. Writes benchmarks/results/forecast.json; runs that are
there already are not run again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import contest
import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.evaluation.loss import ratio_error
from scratchlab.generation.sampling import choose
from scratchlab.model.gpt import GPT
from scratchlab.model.load import load_model
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder

Floats = npt.NDArray[np.float64]

ROOT = Path(__file__).parent.parent
DAY, WEEK, YEAR = 24, 168, 8766  # hours
HORIZON = DAY
PATHS = 50
SEEN = WEEK  # hours before an origin that the model is given; they and the horizon fit into its context
AT_ONCE = 32  # origins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the model; the series stays")
    parser.add_argument("--years", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/forecast", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/forecast.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    series = make_series(arguments.years * YEAR)
    corpus = build(series, arguments.work)
    trained = len(corpus.split("train"))
    origins = np.arange(trained + len(corpus.split("validation")), len(series) - HORIZON + 1, DAY)
    origins = origins[: len(origins) // 7 * 7]  # whole weeks
    results: dict[str, Any] = {"machine": contest.machine(), "hours": len(series), "origins": len(origins)}
    naive = errors(series, origins, same_hour(series, origins, WEEK))
    scale = np.abs(series[WEEK:trained] - series[: trained - WEEK]).mean()
    results["naive"] = summary(naive, naive, scale)
    results["day_before"] = summary(errors(series, origins, same_hour(series, origins, DAY)), naive, scale)
    results["mean_of_4_weeks"] = summary(errors(series, origins, mean_of_weeks(series, origins, 4)), naive, scale)
    results["quantization_mae"] = float(np.abs(series - numbers(corpus, corpus.tokenizer.encode(text(series)))).mean())
    results["gpt"] = []
    for seed in range(1, arguments.seeds + 1):
        run = train(corpus, arguments.work / f"seed-{seed}", seed, arguments.threads)
        paths = sample(load_model(run, device="cpu"), corpus, series, origins, seed)
        outcome = summary(errors(series, origins, np.median(paths, 1)), naive, scale)
        results["gpt"].append({"seed": seed, **outcome, **about(run), "coverage_80": coverage(series, origins, paths)})
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


# The series, and a corpus of it.


def make_series(hours: int) -> Floats:
    """An hourly series around 100."""
    random = np.random.Generator(np.random.Philox(key=24))
    hour = np.arange(hours)
    angle = 2 * np.pi * hour / DAY
    workday = 9 * np.sin(angle - 2.2) + 5 * np.sin(2 * angle - 0.6)
    weekend = 6 * np.sin(angle - 2.8) - 8
    free = hour // DAY % 7 >= 5
    year = 5 * np.sin(2 * np.pi * hour / YEAR)
    shifts = np.where(random.random(hours) < 1 / (60 * DAY), random.normal(0, 6, hours), 0.0)
    wandering = random.normal(0, 0.08, hours)
    level = lasting(shifts + wandering, 0.9995)
    noise = lasting(random.normal(0, 1.4, hours), 0.9)
    return np.round(100 + np.where(free, weekend, workday) + year + level + noise, 2)


def lasting(pushes: Floats, share: float) -> Floats:
    """An autoregression: of what there was, `share` is left an hour later."""
    values = np.zeros(len(pushes))
    for i in range(1, len(pushes)):
        values[i] = share * values[i - 1] + pushes[i]
    return values


def text(series: Floats) -> str:
    return "\n".join(map(repr, series.tolist())) + "\n"


def build(series: Floats, work: Path) -> Corpus:
    if not (work / "corpus").exists():
        work.mkdir(parents=True, exist_ok=True)
        (work / "series.txt").write_text(text(series), encoding="utf-8")
        build_corpus([str(work / "series.txt")], work / "corpus", tokenizer="bins:256", split="contiguous:.8,.1,.1")
    return open_corpus(work / "corpus")


def numbers(corpus: Corpus, tokens: npt.NDArray[Any]) -> Floats:
    """The centers of bins, in the shape of `tokens`."""
    centers = np.array(corpus.tokenizer.decode(range(corpus.vocab_size)).split(), np.float64)
    return centers[tokens]


# Forecasts: a row an origin, a column an hour ahead.


def same_hour(series: Floats, origins: npt.NDArray[np.int64], before: int) -> Floats:
    return np.stack([series[origin - before : origin - before + HORIZON] for origin in origins])


def mean_of_weeks(series: Floats, origins: npt.NDArray[np.int64], weeks: int) -> Floats:
    return np.mean([same_hour(series, origins, week * WEEK) for week in range(1, weeks + 1)], axis=0)


def train(corpus: Corpus, folder: Path, seed: int, threads: int) -> RunFolder:
    if not folder.exists():
        changes = {f"seeds.{role}": seed for role in ("init", "data", "noise")}
        changes |= {"corpus": str(corpus.path), "execution.threads": threads, "execution.device": "cpu"}
        scratchlab.train(load_recipe(ROOT / "recipes/forecast.toml").replaced(changes), out=folder)
    return RunFolder.open(folder)


@torch.inference_mode()
def sample(model: Any, corpus: Corpus, series: Floats, origins: npt.NDArray[np.int64], seed: int) -> Floats:
    """Paths that the model draws from each origin on; shape (origins, PATHS, HORIZON)."""
    assert isinstance(model, GPT)
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Floats] = []
    for start in range(0, len(origins), AT_ONCE):
        seen = [series[origin - SEEN : origin] for origin in origins[start : start + AT_ONCE]]
        prompts = np.stack([corpus.tokenizer.encode(text(hours)) for hours in seen]).astype(np.int64)
        unread_BT = torch.from_numpy(prompts).repeat_interleave(PATHS, 0)
        state = model.new_state(len(unread_BT), SEEN + HORIZON)
        path: list[torch.Tensor] = []
        for _ in range(HORIZON):
            hidden_BTC, state = model.hidden(unread_BT, state)
            unread_BT = choose(model.logits(hidden_BTC[:, -1]), 1.0, None, None, generator)[:, None]
            path.append(unread_BT)
        tokens = torch.cat(path, 1).reshape(len(seen), PATHS, HORIZON).numpy()
        drawn.append(numbers(corpus, tokens))
    return np.concatenate(drawn)


# Errors.


def actual(series: Floats, origins: npt.NDArray[np.int64]) -> Floats:
    return np.stack([series[origin : origin + HORIZON] for origin in origins])


def errors(series: Floats, origins: npt.NDArray[np.int64], forecast: Floats) -> Floats:
    """The mean absolute error of each week of origins."""
    return np.abs(forecast - actual(series, origins)).reshape(-1, 7 * HORIZON).mean(1)


def summary(weekly: Floats, naive: Floats, scale: float) -> dict[str, Any]:
    """With standard errors over weeks. `mase` is over the naive forecast's error within the training split."""
    error = weekly.std(ddof=1) / math.sqrt(len(weekly))
    better = naive - weekly
    return {
        "mae": float(weekly.mean()),
        "mae_error": float(error),
        "mase": float(weekly.mean() / scale),
        "mase_error": float(error / scale),
        "over_naive": float(weekly.sum() / naive.sum()),
        "over_naive_error": ratio_error(weekly, naive),
        "less_than_naive": float(better.mean()),
        "less_than_naive_error": float(better.std(ddof=1) / math.sqrt(len(better))),
        "weeks": len(weekly),
    }


def coverage(series: Floats, origins: npt.NDArray[np.int64], paths: Floats) -> float:
    """The share of hours that came to lie between the paths' 10th and 90th percentile."""
    low, high = np.quantile(paths, [0.1, 0.9], axis=1)
    hours = actual(series, origins)
    return float(((low <= hours) & (hours <= high)).mean())


def about(run: RunFolder) -> dict[str, Any]:
    result = run.result()
    assert result is not None
    seconds = result["cost"]["seconds"]["training"]
    return {"training_seconds": seconds, "validation_nats": result["validation"]["nats_per_token"]}


if __name__ == "__main__":
    main()
