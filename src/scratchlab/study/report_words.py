"""A report in words and rows of text: what the HTML page and the Markdown file have in common, digit for digit."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scratchlab.study.analysis import ArmResult
from scratchlab.study.answer import Answer
from scratchlab.study.report import ArmFacts, Change, Report
from scratchlab.study.sections import BASELINE
from scratchlab.study.words import MANY_SEEDS

MINUS, TIMES = "\u2212", "\u00d7"
MARKS = {"helps": "\u2714", "hurts": "\u2718", "negligible": "\u2248", "undecided": "?", "not judged": "\u2026", "": ""}
"""Beside the word and the color, for whoever sees no colors."""

SPLITS = {"test": "on the test split", "validation": "on the validation split", "best_validation": "at the best"}
LOSSES = {
    "bits_per_byte": "bits per byte",
    "nats_per_token": "nats per token",
    "perplexity": "perplexity",
    "loss": "nats per pair",
    "accuracy": "accuracy",
}
OTHER_METRICS = {
    "answers.chrf": "chrF of answers",
    "cost.total_seconds": "seconds of a run",
    "cost.seconds.training": "seconds of training",
    "cost.training_tokens_per_second": "tokens per second of training",
    "health.skipped_steps": "skipped steps",
    "peak_memory_bytes": "bytes of memory at the peak",
}
MATCHES = {"tokens": "tokens", "flops": "floating-point operations", "seconds": "seconds", "money": "money"}


@dataclass(frozen=True, slots=True)
class Row:
    """An arm in the verdict table."""

    name: str
    role: str
    members: str
    changes: tuple[tuple[str, str, str], ...]
    """Field, from, to."""
    n: str
    mean: str
    effect: str
    interval: str
    verdict: str
    mark: str
    then: str
    """What would settle it, where it is undecided."""
    hours: str
    relative: str
    money: str
    sentence: str
    notes: tuple[str, ...]


# Figures.


def signed(value: float | None, digits: int) -> str:
    """`+0.012`, `−0.012`; a dash where there is none."""
    if value is None:
        return "\u2013"
    text = f"{abs(value):.{digits}f}"
    return ("" if not float(text) else "+" if value > 0 else MINUS) + text


def between(low: float | None, high: float | None, digits: int) -> str:
    return "\u2013" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def plain(value: float | None, digits: int) -> str:
    if value is None:
        return "\u2013"
    return (MINUS if value < 0 and float(f"{value:.{digits}f}") else "") + f"{abs(value):,.{digits}f}"


def style_of(verdict: str) -> str:
    """The name of its color."""
    return verdict.replace(" ", "-")


def p_text(p: float | None) -> str:
    return "\u2013" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"


def value_text(value: Any) -> str:
    """A value of a recipe, as its file has it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def amount_digits(amounts: Sequence[float | None], least: int = 0) -> int:
    """How many decimals show the smallest of some amounts with two digits."""
    known = [amount for amount in amounts if amount]
    return max(least, min(8, 1 - math.floor(math.log10(min(known))))) if known else least


def money_text(amount: float | None, currency: str, digits: int = 2) -> str:
    """Nothing where nobody named a price."""
    return "" if amount is None else f"{plain(amount, digits)} {currency}"


def digits_of(errors: Sequence[float | None], otherwise: float | None = None) -> int:
    """How many decimals show an error of the usual size with two digits: one number for a whole column."""
    known = [error for error in errors if error and math.isfinite(error)]
    size = statistics.median(known) if known else abs(otherwise or 0) / 1000
    return max(0, min(8, 1 - math.floor(math.log10(size)))) if size else 4


def effect_digits(report: Report) -> int:
    if report.analysis is not None:
        return digits_of([arm.error for arm in report.analysis.arms], report.analysis.mean)
    means = [arm.mean for arm in report.arms if arm.mean]
    return digits_of([arm.sd for arm in report.arms], means[0] if means else None)


# Sentences.


def metric_words(metric: str) -> str:
    """`test.bits_per_byte` as a person says it."""
    split, _, loss = metric.partition(".")
    if split in SPLITS and loss in LOSSES:
        return f"{LOSSES[loss]} {SPLITS[split]}"
    return OTHER_METRICS.get(metric, metric)


def better(report: Report) -> str:
    return "higher" if report.higher_is_better else "lower"


def question(report: Report) -> str:
    """What the study asks, in one sentence."""
    base = "the recipe " + report.baseline.rpartition("/")[2].removesuffix(".toml")
    what = f"{metric_words(report.metric)} ({better(report)} is better)"
    most = count(report.looks[-1], "block") if report.looks else ""
    tuned = "once tuned, " if report.retune else ""
    tail = f"{tuned}at equal {MATCHES[report.match]}, in {'up to ' * (len(report.looks) > 1)}{most} of fresh seeds?"
    declared = [arm.name for arm in report.arms if arm.role == "declared"]
    match report.design:
        case "noise":
            return f"How far does chance alone move {metric_words(report.metric)} of {base}?"
        case "sweep":
            fields = dict.fromkeys(change.field for arm in report.arms for change in arm.changes)
            return f"Where over {' and '.join(fields)} is {base} best in {what}, {tail}"
        case "screen":
            switches = len({member for arm in report.arms for member in arm.members})
            screened = f"screened together in {len(report.arms)} arms"
            return f"Which of {switches} changes to {base} move {what}, {screened}, {tail}"
        case _ if len(declared) == 1:
            return f"Does {declared[0]}, a change to {base}, improve {what}, {tail}"
        case _:
            return f"Which of {len(declared)} changes to {base} improve {what}, {tail}"


def answers(report: Report) -> list[tuple[str, str]]:
    """By verdict, the declared interventions that have it: the short answer. Nothing before there are verdicts."""
    if report.screen is not None and not report.screen["problem"]:
        found = [(one["name"], one["verdict"]) for one in report.screen["effects"]]
    elif report.analysis is not None:
        found = [(arm.name, arm.verdict) for arm in report.analysis.arms if not arm.exploratory]
    else:
        return []
    return [
        (word, ", ".join(name for name, verdict in found if verdict == word))
        for word in MARKS
        if any(verdict == word for _, verdict in found)
    ]


def standing(report: Report) -> list[str]:
    """What must be known before the verdicts are read: an unfinished study, and what stands in the way."""
    lines = list(report.problems)
    if report.state == "not begun":
        lines.append(f"Nothing has been run yet. To begin: scratchlab study run {report.path}")
    elif report.state == "under way":
        begun = sum(run.begun is not None for run in report.missing)
        left = f"{count(len(report.runs), 'run')} there, {len(report.missing)} missing to the next look"
        looks = f", {report.looks_done} of {count(len(report.looks), 'look')} taken" if report.looks else ""
        lines.append(f"Not finished: {left}{f' ({begun} begun)' if begun else ''}{looks}. Verdicts may still change.")
    return lines


def notes(report: Report) -> list[str]:
    """What else bears on the verdicts."""
    found = [f"{note[0].upper()}{note[1:]}." for note in (report.analysis.notes if report.analysis else ())]
    for arm in report.arms:
        if arm.diverged:
            found.append(f"{arm.name}: {arm.diverged} of its {arm.diverged + arm.finished} runs diverged.")
    if report.retune is not None:
        fields = ", ".join(report.retune["fields"])
        found.append(
            f"Retuned: every arm, the baseline too, first tuned {fields} over {report.retune['trials']} trials by "
            "its validation loss, so the question is which is better once tuned."
        )
    return found


# The verdict table.


def rows(report: Report) -> list[Row]:
    """The arms, the baseline first, in the order of the study file: noise does not rank them."""
    digits = effect_digits(report)
    judged = {arm.name: arm for arm in report.analysis.arms} if report.analysis else {}
    hours = amount_digits([arm.hours_a_run for arm in report.arms])
    money = amount_digits([arm.price_a_run for arm in report.arms], 2)
    return [_row(report, arm, judged.get(arm.name), digits, hours, money) for arm in report.arms]


def _row(report: Report, arm: ArmFacts, judged: ArmResult | None, digits: int, hours: int, money: int) -> Row:
    base = arm.name == BASELINE
    n, mean = (report.analysis.n, report.analysis.mean) if base and report.analysis else (arm.finished, arm.mean)
    if judged is not None:
        n, mean = judged.n, judged.mean
    own = () if len(arm.members) > 1 else arm.changes
    changes = [change for change in arm.changes if change.tuned or change in own]
    return Row(
        name=arm.name,
        role=arm.role,
        members=" + ".join(arm.members) if len(arm.members) > 1 else "",
        changes=tuple(_change(change) for change in changes),
        n=str(n),
        mean=plain(mean, digits),
        effect="" if base else signed(judged.effect if judged else None, digits),
        interval="" if base else between(judged.low, judged.high, digits) if judged else "\u2013",
        verdict="" if base else judged.verdict if judged else _without_verdict(arm),
        mark=MARKS[judged.verdict] if judged else "",
        then=_then(report, judged),
        hours=plain(arm.hours_a_run, hours),
        relative="" if arm.relative_cost is None or base else f"{arm.relative_cost:.2f}{TIMES}",
        money=money_text(arm.price_a_run, report.currency, money),
        sentence=_sentence(judged),
        notes=judged.notes if judged else (),
    )


def _without_verdict(arm: ArmFacts) -> str:
    if arm.diverged and not arm.finished:
        return "diverged"
    return "not judged" if arm.finished else "not run yet"


def _sentence(judged: ArmResult | None) -> str:
    return "" if judged is None else f"{judged.sentence[0].upper()}{judged.sentence[1:]}."


def _then(report: Report, judged: ArmResult | None) -> str:
    if judged is None or judged.verdict != "undecided":
        return ""
    if judged.diverged and not judged.n:
        return "does not train"
    if judged.seeds_needed is None:
        return "run more seeds"
    if judged.seeds_needed > MANY_SEEDS:
        return f"more than {MANY_SEEDS:,} more seeds"
    return f"about {count(judged.seeds_needed, 'more seed')}"


def _change(change: Change) -> tuple[str, str, str]:
    name = f"{change.field} (tuned)" if change.tuned else change.field
    return name, value_text(change.before), value_text(change.after)


def totals(report: Report) -> str:
    """What the study took, in a sentence."""
    if report.cost is None:
        return ""
    hours, prices = report.cost.device_hours, (report.cost.price, report.cost.price_without_evaluation)
    money, without = (money_text(price, report.currency, amount_digits([*prices], 2)) for price in prices)
    share = report.cost.training_hours / hours if hours else 0.0
    spent = f", {money} ({without} without evaluation)" if money else ""
    return (
        f"{count(report.cost.runs, 'run')} took {plain(hours, amount_digits([hours]))} device-hours{spent} "
        f"({share:.0%} of it training; the rest evaluation, checkpoints, compilation)."
    )


# Underneath.


def statistics_rows(report: Report) -> list[tuple[str, ...]]:
    """What a statistician asks of each arm."""
    digits = effect_digits(report)
    return [
        (
            arm.name,
            str(arm.n),
            signed(arm.effect, digits),
            plain(arm.error, digits + 1),
            f"{arm.freedom:g}",
            between(arm.low, arm.high, digits),
            between(arm.low_90, arm.high_90, digits),
            p_text(arm.p),
            p_text(arm.p_exploratory if arm.exploratory else arm.p_holm)
            + (" (Benjamini-Hochberg)" if arm.exploratory and arm.p_exploratory is not None else ""),
            "" if arm.decided_at is None else str(arm.decided_at),
            arm.method,
        )
        for arm in (report.analysis.arms if report.analysis else ())
    ]


STATISTICS_HEAD = ("arm", "n", "effect", "error", "df", "95% interval", "90% interval", "p", "adjusted p",
                   "decided at", "method")  # fmt: skip
NOISE_HEAD = ("source", "standard deviation", "what it rests on")


def noise_rows(report: Answer | Report) -> list[tuple[str, str, str]]:
    """Sources of noise: what, how much (a standard deviation), and what it rests on."""
    noise = report.noise
    if not noise:
        return []
    known = [noise[name] for name in ("between_seeds", "after_blocks", "evaluation", "step") if noise[name]]
    digits = amount_digits(known)
    found: list[tuple[str, str, str]] = []
    if noise["between_seeds"] is not None:
        runs = count(noise["runs"], "baseline run")
        grid = noise["grid"] and f"{runs} over a grid of {noise['grid'][0]} x {noise['grid'][1]} seeds, shared in part"
        base = grid or f"{runs} with fresh seeds"
        found.append(("between seeds", plain(noise["between_seeds"], digits), f"standard deviation of {base}"))
    if noise["after_blocks"] is not None:
        rest = f"pooled over all arms, {noise['after_blocks_freedom']} degrees of freedom: what verdicts are judged by"
        found.append(("left once arms share their seeds", plain(noise["after_blocks"], digits), rest))
    for component in (noise["split"] or {}).get("components", ()):
        low, high = math.sqrt(max(0, component["low"])), math.sqrt(max(0, component["high"]))
        name = {"init": "initial weights", "data": "order of the data", "rest": "the rest"}[component["name"]]
        below = "; too small to be seen in a grid of this size" if component["variance"] < 0 else ""
        found.append(
            (f"of it: {name}", plain(component["sd"], digits), f"95%: {low:.{digits}f} to {high:.{digits}f}{below}")
        )
    if noise["rerun"] is not None:
        exact = "exact reruns agree to the bit" if noise["rerun"] == 0 else "what no seed explains"
        found.append(
            ("between exact reruns", plain(noise["rerun"], digits), f"{count(noise['reruns'], 'rerun')}; {exact}")
        )
    if noise["evaluation"] is not None:
        what = "standard error of one run's figure over the text that scores it; mostly shared by all arms"
        if noise["evaluation_pairs"]:
            pairs, unit = count(noise["evaluation_pairs"], "pair"), noise["evaluation_unit"]
            what = (
                f"standard error of an arm's difference in one block over other {unit} of the kind, pooled over "
                f"{pairs}; the verdicts are of this text"
            )
        found.append(("evaluation", plain(noise["evaluation"], digits), what))
    if noise["step"] is not None:
        found.append(
            ("step to step", plain(noise["step"], digits), "of the last evaluations of a run about their line")
        )
    return found


def run_rows(report: Report) -> list[tuple[str, ...]]:
    """Every run that counts."""
    digits = effect_digits(report) + 1
    return [
        (
            run.arm,
            run.block + (f", rerun {run.rerun}" if run.rerun else "")
            + "".join(f", {name} {value}" for name, value in run.factors.items()),
            *(str(seed) for seed in run.seeds),
            "diverged" if run.value is None else plain(run.value, digits),
            "" if run.difference is None else signed(run.difference, digits),
            f"{run.seconds + run.other_seconds:,.1f}",
            run.hardware,
            run.folder,
        )
        for run in report.runs
    ]  # fmt: skip


RUN_HEAD = ("arm", "block", "init", "data", "noise", "figure", "difference", "seconds", "hardware", "folder")


def machines(report: Report) -> list[tuple[str, int]]:
    """What the runs ran on, and how many."""
    found: dict[str, int] = {}
    for run in report.runs:
        found[run.hardware] = found.get(run.hardware, 0) + 1
    return list(found.items())


def environment_text(report: Report) -> str:
    """Software and settings, in a line."""
    software = [f"{name} {text}" for name, text in report.environment.items() if name != "device"]
    settings = [f"{name.rpartition('.')[2]} {value_text(value)}" for name, value in report.execution.items()]
    return ", ".join([*software, *settings])


def commands(report: Report) -> list[str]:
    return [f"scratchlab study {verb} {report.path}" for verb in ("run", "status", "report")]


def arm_rows(report: Report) -> list[tuple[str, ...]]:
    """What each arm is, to the bit."""
    return [
        (arm.name, str(arm.steps or ""), f"{(arm.steps or 0) * (arm.tokens_per_step or 0):,}", arm.identity or "")
        for arm in report.arms
        if arm.settled
    ]


ARM_HEAD = ("arm", "steps", "tokens", "fingerprint before seeds")
