"""What a report says: the facts from the study's folder, in every design and state, the same on every page."""

import json
import math
import re
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from scratchlab.errors import UsageError
from scratchlab.runfolder import RunFolder
from scratchlab.study import report_words as words
from scratchlab.study.definition import Study
from scratchlab.study.report import Report, report_study
from scratchlab.study.report_curves import POINTS, arm_curves, binned, read_curves
from scratchlab.study.report_figures import figures
from scratchlab.study.report_guide import reading
from scratchlab.study.report_markdown import escaped, interval_plot, to_markdown
from scratchlab.study.report_page import to_html
from scratchlab.study.report_tables import in_short, loss_table
from tiny_reports import Value, lines_of, noisy, run_on_paper, settle_on_paper
from tiny_study import TWO, load, write_baseline

STACK = {
    "interventions": {**TWO, "c": {"training.clip_norm": 0.5}},
    "stack": {"members": ["a", "b", "c"]},
}
RATES = {"sweep": {"grid": {"training.learning_rate": [0.001, 0.003, 0.03]}}}
SCREEN = {
    "interventions": {
        **STACK["interventions"],
        "d": {"training.weight_decay": 0.3},
        "e": {"model.n_head": 1},
    },
    "screen": {},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    write_baseline(tmp_path)
    return tmp_path


def diverging(*arms: str) -> Value:
    value = noisy()
    return lambda run: None if run.arm in arms else value(run)


def bowl(run: Any) -> float:
    """Best at a learning rate of .006, near the middle of what is swept."""
    return 2.0 + 0.05 * math.log(run.recipe.training.learning_rate / 0.006) ** 2 + 0.001 * int(run.fingerprint[0], 16)


def finished(place: Path, value: Value | None = None, **study: Any) -> Study:
    """Two interventions in three blocks: a is too small to matter, b hurts."""
    made = load(place, looks=[3], smallest_effect=0.05, price=2.0, **study)
    run_on_paper(made, value or noisy(b=0.3))
    return made


def all_pages(report: Report) -> tuple[str, str, str]:
    return to_html(report), to_markdown(report), json.dumps(report.to_json(), allow_nan=False)


# Every design, in every state.

DESIGNS: dict[str, tuple[Mapping[str, Any], dict[str, Any], Value]] = {
    "paired": ({"interventions": TWO}, {"looks": [2, 3]}, noisy(b=0.3)),
    "stack": (STACK, {"looks": [2]}, noisy(b=0.3)),
    "screen": (SCREEN, {"looks": [2]}, noisy()),
    "sweep": (RATES, {"looks": [2]}, bowl),
    "surface": (
        {"sweep": {"grid": {**RATES["sweep"]["grid"], "model.dropout": [0.0, 0.2, 0.4]}}},
        {"looks": [2]},
        bowl,
    ),
    "words swept": ({"sweep": {"grid": {"training.schedule": ["cosine", "linear", "constant"]}}}, {}, noisy()),
    "noise": ({"noise": {"init": 2, "data": 2, "reruns": 1}}, {}, noisy()),
    "factors": ({"noise": {"init": 2, "data": 2, "factors": {"execution.threads": [1, 2]}}}, {}, noisy()),
    "retuned": (
        {"interventions": TWO},
        {"looks": [2], "retune": ["training.learning_rate"], "retune_trials": 3},
        noisy(),
    ),
    "baseline diverged": ({"interventions": TWO}, {"looks": [2]}, diverging("baseline")),
    "an arm diverged": ({"interventions": TWO}, {"looks": [2]}, diverging("a")),
}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("runs", [None, 0, 1, 3, 100])
def test_every_design_in_every_state_has_its_pages(place: Path, design: str, runs: int | None) -> None:
    tables, section, value = DESIGNS[design]
    study = load(place, tables, **section)
    if runs is not None:
        run_on_paper(study, value, most=runs)
    report = report_study(study)
    html, markdown, content = all_pages(report)
    assert words.question(report).endswith("?")
    assert "None" not in markdown
    assert ("nan" in content) is False
    if report.state != "complete":
        banner = words.standing(report)
        assert banner
        assert all(escaped(line) in markdown for line in banner)
        assert html.index('class="banner"') < html.index("<table") if "<table" in html else True
    expected = "not begun" if runs is None else "complete" if runs == 100 else "under way"
    assert report.state == expected


def test_a_diverged_baseline_is_told_on_top(place: Path) -> None:
    report = report_study(finished(place, diverging("baseline")))
    assert report.analysis is None
    assert words.standing(report)[0].startswith("The baseline diverged in all of its 3 runs")
    assert {row.verdict for row in words.rows(report)[1:]} == {"not judged"}


def test_an_arm_that_diverged_is_counted(place: Path) -> None:
    report = report_study(finished(place, diverging("a")))
    assert (report.arm("a").diverged, report.arm("a").finished) == (3, 0)
    assert "a: 3 of its 3 runs diverged." in words.notes(report)
    assert (words.rows(report)[1].verdict, words.rows(report)[1].then) == ("undecided", "does not train")
    assert report.curves["a"].training is None
    assert len(report.curves["a"].diverged) == 3


# One truth on all pages.


def test_json_page_and_markdown_have_the_same_figures(place: Path) -> None:
    report = report_study(finished(place))
    html, markdown, _ = all_pages(report)
    inside = json.loads(scripts(html)["report"])
    assert inside == json.loads(json.dumps(report.to_json()))
    rows = words.rows(report)
    assert [row.verdict for row in rows] == ["", "negligible", "hurts"]
    for row, arm in zip(rows[1:], inside["analysis"]["arms"], strict=True):
        digits = words.effect_digits(report)
        assert float(row.effect.replace(words.MINUS, "-")) == pytest.approx(arm["effect"], abs=0.51 * 10**-digits)
        ends = [float(end.replace(words.MINUS, "-")) for end in row.interval.split(" to ")]
        assert ends == pytest.approx([arm["low"], arm["high"]], abs=0.51 * 10**-digits)
        for text in (row.effect, row.interval, row.hours, row.money, f"{row.mark} {row.verdict}"):
            assert text in html
            assert text in markdown


def test_an_arm_costs_what_its_runs_took(place: Path) -> None:
    report = report_study(finished(place))
    assert report.cost is not None
    assert report.cost.device_hours == pytest.approx(9 * 72 / 3600)
    assert report.cost.training_hours == pytest.approx(9 * 60 / 3600)
    assert report.cost.price == pytest.approx(2 * 9 * 72 / 3600)
    assert report.cost.price_without_evaluation == pytest.approx(2 * 9 * 60 / 3600)
    assert ", 0.36 USD (0.30 USD without evaluation) (83% of it training" in words.totals(report)
    assert report.arm("a").hours_a_run == pytest.approx(72 / 3600)
    assert report.arm("a").relative_cost == pytest.approx(1.0)
    assert "0.020" in words.rows(report)[1].hours


def test_a_run_of_several_devices_costs_what_all_of_them_took(place: Path) -> None:
    """By its meters: eight of one second and, resumed, four of another."""
    study = finished(place)
    run = report_study(study).runs[0].folder
    for processes in (8, 4):
        spent = {"step": 1, "tokens": 9, "seconds": {"training": 20.0, "evaluation": 5.0}, "processes": processes}
        RunFolder(study.runs / run).append_meters(spent)
    report = report_study(study)
    own = next(facts for facts in report.runs if facts.folder == run)
    assert (own.seconds, own.other_seconds) == (240.0, 60.0)
    assert report.cost is not None
    assert report.cost.price == pytest.approx(2 * (8 * 72 + 300) / 3600)
    assert report.cost.price_without_evaluation == pytest.approx(2 * (8 * 60 + 240) / 3600)


def test_differences_are_within_blocks(place: Path) -> None:
    report = report_study(finished(place))
    base = {run.block: run.value for run in report.runs if run.arm == "baseline"}
    for run in report.runs:
        expected = None if run.arm == "baseline" or run.value is None else run.value - (base[run.block] or 0)
        assert run.difference == expected


def test_the_first_screen_comes_first(place: Path) -> None:
    report = report_study(finished(place))
    html, markdown, _ = all_pages(report)
    order = ["<h1>Which of 2 changes to the recipe base improve bits per byte on the test split (lower is better)",
             "≈ negligible</span>: a", '<table class="verdicts">', "<code>model.dropout</code>: 0 → <b>0.5</b>",
             "How to read this", "does not mean that there is no effect", 'data-figure="effects"',
             'data-figure="validation"', 'data-figure="differences"', 'id="noise"', 'id="samples"', 'id="runs"',
             'id="reproduce"', 'id="report"']  # fmt: skip
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    titles = [
        "# Which of 2",
        "≈ **negligible**: a",
        "| arm | change",
        "## How to read this",
        "## Effects",
        "## Errors",
        "## Loss",
        "## Where the noise",
        "## What they write",
        "## What ran on what",
        "## How to reproduce",
    ]
    found = [markdown.index(text) for text in titles]
    assert found == sorted(found)


def test_before_the_first_look_nothing_is_judged(place: Path) -> None:
    study = load(place, looks=[3], smallest_effect=0.05)
    run_on_paper(study, noisy(b=0.3), most=7)
    report = report_study(study)
    html, markdown, _ = all_pages(report)
    assert words.answers(report) == [("not judged", "a, b")]
    for row in words.rows(report)[1:]:
        assert (row.verdict, row.then) == ("not judged", "")
        assert " to " in row.interval
    assert {row[7:9] for row in words.statistics_rows(report)} == {("\u2013", "\u2013")}, "no p"
    assert 'class="verdict not-judged"' in html
    assert "undecided" not in interval_plot(report) + words.rows(report)[1].sentence
    assert "more seed" not in html.split("<script")[0] + markdown


def test_an_undecided_arm_says_how_many_seeds(place: Path) -> None:
    study = load(place, looks=[3], smallest_effect=0.0005)
    run_on_paper(study, noisy(b=0.3))
    report = report_study(study)
    row = words.rows(report)[1]
    assert row.verdict == "undecided"
    assert report.analysis is not None
    assert row.then == f"about {report.analysis['a'].seeds_needed:,} more seeds"
    assert f"{row.then}</span>" in to_html(report)


@pytest.mark.parametrize(
    ("design", "says", "says_not"),
    [
        ("paired", ("the arm less the baseline", "no declared change does anything", "dropped into"), ("exploratory",)),
        ("stack", ("no declared change does anything", "alone or together", "Benjamini-Hochberg"), ()),
        (
            "screen",
            ("averaged over the others on and off", "100 screens", "beside the others"),
            ("declared", "dropped"),
        ),
        ("sweep", ("the point less the baseline", "every point is", "Benjamini-Hochberg"), ("declared", "dropped")),
        ("retuned", ("no declared change",), ("dropped", "exploratory")),
    ],
)
def test_the_guide_is_that_of_the_design(
    place: Path, design: str, says: tuple[str, ...], says_not: tuple[str, ...]
) -> None:
    tables, section, value = DESIGNS[design]
    study = load(place, tables, **section)
    run_on_paper(study, value)
    guide = " ".join(f"{word}: {text}" for word, text in reading(report_study(study)))
    assert [text for text in says if text not in guide] == []
    assert [text for text in says_not if text in guide] == []


@pytest.mark.parametrize(("blocks", "told"), [(3, True), (4, False)])
def test_the_guide_says_what_few_blocks_cannot_tell(place: Path, blocks: int, told: bool) -> None:
    study = load(place, looks=[blocks])
    run_on_paper(study, noisy())
    assert ("11 of 100" in dict(reading(report_study(study)))["helps, hurts"]) is told


# What came as data stays data.


def test_what_came_as_data_is_escaped(place: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    write_baseline(place, "corpora/none", {"evaluation.corpus": "corpora/none"})
    study = load(place, {"interventions": {"text": {"corpus": bad}}}, looks=[2])
    run_on_paper(study, noisy(), sample=bad + "\n```\n# heading\x07")
    html, markdown, _ = all_pages(report_study(study))
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "<" not in scripts(html)["report"] + scripts(html)["figures"]
    outside = "".join(markdown.split("````")[::2])
    assert "<script>" not in outside.split("## What they write")[0]
    assert "\\<script\\>alert" in outside
    assert "\x07" not in html + markdown


class Elements(HTMLParser):
    """The scripts of a page by id or place, and every address that an element would load."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.policy = ""
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href", "action", "data") if name in given]
        self._script = given.get("id") or str(len(self.scripts)) if tag == "script" else None
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def elements(html: str) -> Elements:
    found = Elements()
    found.feed(html.replace(get_plotlyjs(), "plotly"))
    return found


def scripts(html: str) -> dict[str, str]:
    return elements(html).scripts


def test_a_page_loads_nothing(place: Path) -> None:
    html = to_html(report_study(finished(place)))
    found = elements(html)
    assert found.addresses
    assert all(address.startswith("#") for address in found.addresses)
    assert all(f'id="{address[1:]}"' in html for address in found.addresses)
    assert "default-src 'none'" in found.policy
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert len(found.scripts) == 4  # the report, its figures, plotly, and what draws


# Figures.


def test_figures_draw_what_was_found(place: Path) -> None:
    report = report_study(finished(place))
    drawn = figures(report)
    assert report.analysis is not None
    band = drawn["effects"]["layout"]["shapes"][0]
    assert (band["x0"], band["x1"]) == (-0.05, 0.05)
    hurts = next(trace for trace in drawn["effects"]["data"] if "hurts" in trace["name"])
    b = report.analysis["b"]
    assert hurts["x"] == [b.effect]
    assert hurts["error_x"]["arrayminus"] == [pytest.approx((b.effect or 0) - (b.low or 0))]
    thick = drawn["effects"]["data"][drawn["effects"]["data"].index(hurts) - 1]
    assert thick["error_x"]["arrayminus"] == [pytest.approx((b.effect or 0) - (b.low_90 or 0))]
    assert thick["error_x"]["thickness"] > hurts["error_x"]["thickness"]
    assert not thick["showlegend"]
    assert drawn["effects"]["layout"]["yaxis"]["ticktext"] == ["a", "b"]
    symbols = {trace["marker"]["symbol"] for trace in drawn["effects"]["data"]}
    assert len(symbols) == 2


def test_what_is_negligible_by_its_90_percent_interval_is_so_in_words_and_in_the_picture(place: Path) -> None:
    """Its 95% interval leaves the shade, its 90% interval does not."""
    study = load(place, {"interventions": {"a": TWO["a"]}}, looks=[3], smallest_effect=0.05)
    steps = {"0": 0.0, "1": 0.014, "2": -0.014}  # sd .014: 90% reaches .0236, 95% .0348
    run_on_paper(study, lambda run: 2.0 + (0.02 + steps[run.block]) * (run.arm == "a"))
    report = report_study(study)
    assert report.analysis is not None
    a = report.analysis["a"]
    assert (a.verdict, (a.high or 0) > 0.05, (a.high_90 or 1) < 0.05) == ("negligible", True, True)
    assert "its 90% interval lies within plus or minus 0.05" in a.sentence
    html, markdown, _ = all_pages(report)
    assert "surely" not in html.split("<script")[0] + markdown
    assert "An arm whose thick part lies in the shade is negligible" in html
    plot = interval_plot(report).splitlines()[0]
    assert plot.rindex("\u00b7") < plot.rindex("]")
    assert re.search(r"\[-+=.*o=+-+\]", plot)


def test_runs_after_the_last_look_are_hollow(place: Path) -> None:
    study = load(place, looks=[2, 4], smallest_effect=1e-6)
    swing = {"a": 0.1, "b": -0.2}
    run_on_paper(study, lambda run: 2.0 + swing.get(run.arm, 0.0) * (-1) ** int(run.block), most=9)  # never decided
    trace = figures(report_study(study))["differences"]["data"][0]
    hollow = [symbol == "circle-open" for symbol in trace["marker"]["symbol"]]
    assert hollow == ["block 2" in text for text in trace["text"]]
    assert sum(hollow) == 2


def test_intervals_in_characters(place: Path) -> None:
    lines = interval_plot(report_study(finished(place))).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("a  negligible")
    assert lines[0].count("o") == 1
    zero = lines[1].index("|")
    assert lines[1].index("[") > zero
    assert lines[0].index("[") < zero < lines[0].rindex("]")


# Curves.


def test_losses_are_averaged_in_bins_of_as_many_steps() -> None:
    losses = np.arange(1000.0)
    losses[:5] = np.nan
    losses[7] = np.nan
    steps, means = binned(losses)
    assert len(steps) == POINTS
    assert (steps[0], steps[-1]) == (5, 1000)
    assert np.isnan(means[0])
    assert means[1] == pytest.approx(np.mean([5, 6, 8, 9]))
    assert means[-1] == pytest.approx(997)
    assert binned(np.arange(3.0))[0] == (1, 2, 3)
    assert binned(np.array([]))[0] == ()


def test_an_arms_curve_is_the_mean_over_its_runs_between_lowest_and_highest(tmp_path: Path) -> None:
    runs = []
    for number, value in enumerate((1.0, 3.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(lines_of(4 - number, value), encoding="utf-8")
        runs.append(read_curves(RunFolder(folder), "bits_per_byte"))
    curves = arm_curves([runs[0], runs[0]], [], 10).training
    assert curves is not None
    assert curves.tokens == (10, 20, 30, 40)
    assert curves.mean == curves.low == (2.0, 1.5, 1.33333, 1.25)
    validation = arm_curves(runs, [], 10).validation
    assert validation is not None
    assert validation.tokens == (10, 20, 30)  # those that both have
    assert (validation.mean[0], validation.low[0], validation.high[0], validation.runs) == (3.0, 2.0, 4.0, 2)


def test_evaluation_noise_is_that_of_paired_differences(place: Path) -> None:
    """Pooled over arms and blocks; without the units of every run it is one run's own error, and called so."""
    study = finished(place)
    rows = {name: (value, what) for name, value, what in words.noise_rows(report_study(study))}
    assert rows["evaluation"] == (
        "0.0100",
        "standard error of one run's figure over the text that scores it; mostly shared by all arms",
    )
    rng, squares = np.random.default_rng(0), []
    common = rng.uniform(50, 90, 12)
    for run in report_study(study).runs:
        apart = rng.normal(0, 1, 12) * (run.arm != "baseline")
        content = {"unit": "documents", "tokens": [20] * 12, "bytes": [60] * 12, "nats": (common + apart).tolist()}
        RunFolder(study.runs / run.folder).save_test_units(content)
        squares += [float(apart.var(ddof=1)) / 12 / (60 * math.log(2)) ** 2] * (run.arm != "baseline")
    report = report_study(study)
    assert report.noise["evaluation"] == pytest.approx(math.sqrt(np.mean(squares)))
    assert report.noise["evaluation_pairs"] == 6
    what = next(what for name, _, what in words.noise_rows(report) if name == "evaluation")
    assert "an arm's difference in one block over other documents of the kind, pooled over 6 pairs" in what
    all_pages(report)


# What must not count.


def test_what_was_declared_cannot_be_reported_otherwise(place: Path) -> None:
    finished(place)
    with pytest.raises(UsageError, match=r"smallest_effect was 0.05 and is 0.5 now"):
        report_study(load(place, looks=[3], smallest_effect=0.5, price=2.0))


def test_an_arm_that_was_changed_has_no_runs(place: Path) -> None:
    finished(place)
    changed = {"interventions": {**TWO, "a": {"model.dropout": 0.25}}}
    report = report_study(load(place, changed, looks=[3], smallest_effect=0.05, price=2.0))
    assert report.state == "under way"
    assert report.problems == ("New or changed since the study was last run, and without runs: a.",)
    assert report.arm("a").finished == 0
    assert words.rows(report)[1].verdict == "not run yet"
    assert words.rows(report)[2].verdict == "not judged", "no look is complete before the changed arm has run"


def test_a_changed_baseline_leaves_nothing_to_count(place: Path) -> None:
    finished(place)
    write_baseline(place, changes={"training.learning_rate": 0.02})
    report = report_study(load(place, looks=[3], smallest_effect=0.05, price=2.0))
    assert (report.state, report.runs) == ("not begun", ())
    assert report.problems[0].startswith("The baseline has changed")
    all_pages(report)


def test_a_damaged_run_is_told_and_left_out(place: Path) -> None:
    study = finished(place)
    name = report_study(study).runs[1].folder
    (study.runs / name / "result.json").write_text("{", encoding="utf-8")
    report = report_study(study)
    assert any("result.json is damaged" in problem for problem in report.problems)
    assert len(report.runs) == 8
    assert [run.folder for run in report.missing] == [name]


def test_unlike_machines_in_a_block_are_no_traceback(place: Path) -> None:
    study = finished(place)
    manifest = study.runs / report_study(study).runs[1].folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("a processor", "another"), encoding="utf-8")
    report = report_study(study)
    assert report.analysis is None
    assert "hardware" in " ".join(report.problems)
    all_pages(report)


# Parts of some designs.


def test_a_stack_is_beside_its_parts(place: Path) -> None:
    study = load(place, STACK, looks=[3])
    gain = {"a": -0.1, "b": -0.2, "c": -0.3}
    run_on_paper(study, lambda run: noisy()(run) + sum(gain[m] for m in study.arm(run.arm).members) * (
        0.5 if run.arm == "stack" else 1.0))  # fmt: skip
    stack = report_study(study).stack
    assert stack is not None
    assert stack["predicted"]["value"] == pytest.approx(-0.6, abs=0.05)
    assert stack["observed"]["value"] == pytest.approx(-0.3, abs=0.03)
    assert stack["members"][2]["inside"]["value"] == pytest.approx(0.0, abs=0.03)
    assert "less than they would if they added up" in to_markdown(report_study(study))


def test_with_a_new_arm_nothing_is_claimed_until_it_has_run(place: Path) -> None:
    study = load(place, {"interventions": {"a": TWO["a"]}}, looks=[3], smallest_effect=0.01)
    run_on_paper(study, noisy(a=-1.0))
    assert report_study(study).analysis["a"].verdict == "helps"  # pyright: ignore[reportOptionalSubscript]
    more = report_study(load(place, looks=[3], smallest_effect=0.01))
    assert (more.state, more.looks_done) == ("under way", 0)
    assert more.analysis["a"].verdict == "not judged"  # pyright: ignore[reportOptionalSubscript]


def test_what_was_tried_and_taken_out_is_said_and_counts(place: Path) -> None:
    run_on_paper(load(place, looks=[3]), noisy(a=-1.0))
    study = load(place, {"interventions": {"b": TWO["b"]}}, looks=[3])
    run_on_paper(study, noisy())
    report = report_study(study)
    assert any("no longer in the study file as it was: a" in line for line in words.standing(report))
    b = report.analysis["b"]  # pyright: ignore[reportOptionalSubscript]
    assert b.p_holm == pytest.approx(min(1.0, 2 * b.p))


def test_a_sweep_says_where_it_is_best(place: Path) -> None:
    study = load(place, RATES, looks=[2])
    run_on_paper(study, bowl)
    report = report_study(study)
    assert report.sweep is not None
    assert report.sweep["fit"]["optimum"][0] == pytest.approx(0.006, rel=0.2)
    line = next(trace for trace in figures(report)["sweep"]["data"] if trace["mode"] == "lines")
    assert min(line["y"]) == pytest.approx(2.0075, abs=0.01)
    assert re.search(r"best at training\.learning_rate = 0\.00[56]\d* \(95%: ", to_html(report))


def test_noise_is_split(place: Path) -> None:
    tables = {"noise": {"init": 3, "data": 3, "reruns": 2, "factors": {"execution.threads": [1, 2]}}}
    study = load(place, tables)
    run_on_paper(study, noisy())
    report = report_study(study)
    names = [name for name, _, _ in words.noise_rows(report)]
    assert names == ["between seeds", "of it: initial weights", "of it: order of the data", "of it: the rest",
                     "between exact reruns", "evaluation", "step to step"]  # fmt: skip
    assert "9 baseline runs over a grid of 3 x 3 seeds, shared in part" in words.noise_rows(report)[0][2]
    assert report.noise["rerun"] == 0
    assert report.noise["factors"][0]["factor"] == "threads"
    assert 'data-figure="grid"' in to_html(report)


def test_a_factor_at_the_baselines_own_value_is_the_run_of_the_grid(place: Path) -> None:
    """Nine cells, two reruns, and three runs with two threads: with one thread the grid has them."""
    tables = {"noise": {"init": 3, "data": 3, "reruns": 2, "factors": {"execution.threads": [1, 2]}}}
    study = load(place, tables)
    run_on_paper(study, noisy(), most=0)
    assert len(report_study(study).missing) == 14
    run_on_paper(study, noisy())
    report = report_study(study)
    assert report.cost is not None
    assert (len(report.runs), report.cost.runs, words.machines(report)) == (14, 14, [("a processor", 14)])
    assert report.cost.device_hours == pytest.approx(14 * 72 / 3600)
    assert report.curves["baseline"].training is not None
    assert (report.curves["baseline"].training.runs, report.arm("baseline").finished) == (9, 9), "seeds, not runs"
    assert report.noise["factors"][0]["n"] == 3


def test_tuning_is_labeled(place: Path) -> None:
    study = load(place, looks=[2], retune=["training.learning_rate"], retune_trials=3)
    run_on_paper(study, lambda run: 2.0 + run.recipe.training.learning_rate)  # the smaller the better
    report = report_study(study)
    chosen = {arm["arm"]: arm["chosen"] for arm in (report.retune or {})["arms"]}
    assert chosen == {"baseline": {"training.learning_rate": 0.0025}, "a": {"training.learning_rate": 0.0025},
                      "b": {"training.learning_rate": 0.0125}}  # fmt: skip
    assert words.rows(report)[0].changes == (("training.learning_rate (tuned)", "0.01", "0.0025"),)
    assert any(note.startswith("Retuned: every arm") for note in words.notes(report))
    assert "(lower is better), once tuned, at equal tokens" in words.question(report)


def test_a_single_evaluation_is_no_curve(place: Path) -> None:
    evaluation = {"step": 4, "validation": {"bits_per_byte": 2.0, "nats_per_token": 2.0}}
    study = load(place, looks=[2])
    run_on_paper(study, noisy(), metrics=json.dumps(evaluation) + "\n")
    report = report_study(study)
    assert "validation" not in figures(report)
    table = loss_table(report)
    assert table is not None
    assert {row[2:] for row in table.rows} == {("", "", "", "2.0000 (2.0000 to 2.0000)")}


def test_a_stacks_answer_is_on_the_first_screen(place: Path) -> None:
    tables, section, value = DESIGNS["stack"]
    study = load(place, tables, **section)
    run_on_paper(study, value)
    report = report_study(study)
    html, (sentence,) = to_html(report), in_short(report)
    assert html.index(sentence) < html.index('<table class="verdicts">')


def test_an_effect_as_steps(place: Path) -> None:
    """Losses of 1 + 1/steps: at 40 steps a further one is worth 1/1600."""
    study = load(place, looks=[3])
    metrics = "".join(
        json.dumps({"step": 10 * i, "validation": {"bits_per_byte": 1 + 1 / (10 * i), "nats_per_token": 1.0}}) + "\n"
        for i in range(1, 41)
    )
    run_on_paper(study, noisy(a=-0.1), metrics=metrics)
    report = report_study(study)
    worth = report.arm("a").worth
    assert report.analysis is not None
    assert worth is not None
    effect = report.analysis["a"].effect
    assert worth["more"] == pytest.approx(-(effect or 0) * 400**2, rel=0.25)
    assert worth["low"] < worth["more"] < worth["high"]


def test_only_settled_is_under_way(place: Path) -> None:
    study = load(place, looks=[2])
    settle_on_paper(study)
    report = report_study(study)
    assert len(report.missing) == 6
    assert "0 runs there, 6 missing to the next look" in words.standing(report)[0]


def test_many_runs_are_reported_fast_and_small(place: Path) -> None:
    """A fifth of what benchmarks/study_report.py measures, with fewer steps."""
    study = load(place, {"interventions": {f"a{i}": {"model.dropout": i / 100} for i in range(1, 20)}}, looks=[5])
    run_on_paper(study, noisy(), metrics=lines_of(1000, 2.0))
    began = time.perf_counter()
    html = to_html(report_study(study))
    assert time.perf_counter() - began < 8
    assert len(html) < 8e6
