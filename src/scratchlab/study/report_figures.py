"""The figures of a report as plotly takes them: plain dicts of data and layout, made from a `Report` alone.

Colors are names of the page's own (`--helps`, or `--helps/0.2` for one that is see-through), which its script puts in
for the light or the dark of the reader's screen. Marks differ in shape as well as in color.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from scratchlab.study.report import Report
from scratchlab.study.report_curves import Curve
from scratchlab.study.report_words import MARKS, effect_digits, metric_words, style_of
from scratchlab.study.sections import BASELINE
from scratchlab.study.table import natural

Figure = dict[str, Any]

SYMBOLS = {"helps": "circle", "hurts": "x", "negligible": "square", "undecided": "circle-open",
           "not judged": "diamond-open"}  # fmt: skip
SHOWN = 6
"""Arms whose curves are drawn at once; those of others by a click on their name."""
HUES = 8
DASHES = ("solid", "dash", "dot")
TOOLBAR = 24
"""Pixels that plotly's own buttons take above a figure with a text in that corner."""
NAME = 28
"""Characters of an arm's name beside an axis."""


def figures(report: Report) -> dict[str, Figure]:
    """All figures that there is anything to draw in, by name."""
    made = {
        "effects": effects_figure(report),
        "screen": screen_figure(report),
        "sweep": sweep_figure(report),
        "grid": grid_figure(report),
        "validation": curves_figure(report, "validation"),
        "training": curves_figure(report, "training"),
        "differences": differences_figure(report),
        "stack": stack_figure(report),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}\u2026"


# Intervals.


def effects_figure(report: Report) -> Figure | None:
    """Each arm's effect with its interval, the region of negligible effects shaded."""
    arms = [] if report.analysis is None else [arm for arm in report.analysis.arms if arm.effect is not None]
    if not arms:
        return None
    ones = [Interval(a.name, a.verdict, a.effect, (a.low, a.high), (a.low_90, a.high_90)) for a in arms]
    figure = _interval_figure(report, ones)
    return _with_negligible(figure, report.analysis.smallest_effect if report.analysis else None)


def screen_figure(report: Report) -> Figure | None:
    """The screened changes with their intervals."""
    if report.screen is None or report.screen["problem"]:
        return None
    ones = [
        Interval(one["name"], one["verdict"], one["value"], (one["low"], one["high"]), (one["low_90"], one["high_90"]))
        for one in report.screen["effects"]
    ]
    return _with_negligible(_interval_figure(report, ones), report.screen["smallest_effect"])


def stack_figure(report: Report) -> Figure | None:
    """Each member alone and, a little below, inside the stack; the sum of the parts beside what was observed."""
    stack = report.stack
    if stack is None or stack["problem"]:
        return None
    members, labels = stack["members"], {"predicted": "sum of the parts", "observed": "the stack",
                                         "difference": "beyond the sum"}  # fmt: skip
    names = [*(member["name"] for member in members), *labels.values()]
    inside = [(i, one) for i, one in enumerate(members) if one["inside"] is not None]
    groups = [
        ("alone", "--arm-0", "circle", [(i - 0.14, one["alone"]) for i, one in enumerate(members)]),
        ("inside the stack", "--arm-1", "diamond", [(i + 0.14, one["inside"]) for i, one in inside]),
        ("together", "--ink", "square", [(len(members) + i, stack[name]) for i, name in enumerate(labels)]),
    ]  # fmt: skip
    data = [
        _interval_trace(
            name, [(y, names[round(y)], one["value"], (one["low"], one["high"])) for y, one in ones], color, mark
        )
        for name, color, mark, ones in groups
        if ones
    ]
    return {"data": data, "layout": _layout(names, 44)}


Ends = tuple[float | None, float | None]


class Interval(NamedTuple):
    """An effect as it is drawn."""

    name: str
    verdict: str
    value: float | None
    ends: Ends
    """Of the 95% interval."""
    ends_90: Ends
    """Of the 90% interval, by which an effect is found negligible."""


def _interval_figure(report: Report, ones: Sequence[Interval]) -> Figure:
    """A line an arm, the first on top; the 90% part thicker. One trace a verdict, so that the legend names it."""
    data: list[Figure] = []
    for word in SYMBOLS:
        own = [(y, one) for y, one in enumerate(ones) if one.verdict == word]
        look = f"--{style_of(word)}", SYMBOLS[word]
        if own:
            data.append(_thick(_interval_trace("90%", [(y, o.name, o.value, o.ends_90) for y, o in own], *look)))
            text = f"{MARKS[word]} {word}"
            data.append(_interval_trace(text, [(y, o.name, o.value, o.ends) for y, o in own], *look))
    layout = _layout([one.name for one in ones], 30)
    layout["annotations"] = _ways(report)
    layout["height"] += TOOLBAR
    layout["margin"]["t"] += TOOLBAR
    return {"data": data, "layout": layout}


def _interval_trace(
    name: str,
    ones: Sequence[tuple[float, str, float | None, Ends]],
    color: str,
    symbol: str,
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [at for _, _, at, _ in ones],
        "y": [y for y, *_ in ones],
        "text": [escape(label) for _, label, *_ in ones],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [None if high is None or at is None else high - at for _, _, at, (_, high) in ones],
            "arrayminus": [None if low is None or at is None else at - low for _, _, at, (low, _) in ones],
            "thickness": 2.5,
            "width": 5,
            "color": color,
        },
        "marker": {"color": color, "size": 10, "symbol": symbol, "line": {"width": 2.5, "color": color}},
        "hovertemplate": "%{text}: %{x:+.5g}<extra>" + name + "</extra>",
    }


def _thick(trace: Figure) -> Figure:
    """Behind the trace of the whole interval, and silent."""
    bar = {**trace["error_x"], "thickness": 8, "width": 0}
    return {**trace, "error_x": bar, "showlegend": False, "hoverinfo": "skip", "hovertemplate": None}


def _ways(report: Report) -> list[Figure]:
    """Which side is better."""
    left, right = ("worse", "better") if report.higher_is_better else ("better", "worse")
    place = {"xref": "paper", "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False, "yshift": 4}
    return [
        {**place, "x": 0, "xanchor": "left", "text": f"\u2190 {left}", "font": {"color": f"--{_word(left)}"}},
        {**place, "x": 1, "xanchor": "right", "text": f"{right} \u2192", "font": {"color": f"--{_word(right)}"}},
    ]


def _word(way: str) -> str:
    return {"better": "helps", "worse": "hurts"}[way]


def _with_negligible(figure: Figure, smallest: float | None) -> Figure:
    """The region of effects that do not matter, behind everything."""
    if smallest is not None:
        band = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": -smallest, "x1": smallest}
        figure["layout"]["shapes"] = [
            {**band, "line": {"width": 0}, "fillcolor": "--negligible/0.22", "layer": "below"}
        ]
    return figure


def _layout(names: Sequence[str], each: int) -> Figure:
    """A line of so many pixels for each name, the first on top; effects run across, with a line at zero."""
    return _framed(
        110 + each * len(names),
        xaxis={"zeroline": True, "zerolinewidth": 2, "automargin": True},
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [escape(short(name)) for name in names],
            "range": [len(names) - 0.4, -0.6],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
    )


def _framed(height: int, xaxis: Figure, yaxis: Figure) -> Figure:
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
        "xaxis": xaxis,
        "yaxis": yaxis,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
        "hovermode": "closest",
    }


def _named(text: str, log: bool = False) -> Figure:
    """An axis with its name."""
    title = {"text": escape(text), "font": {"size": 13}, "standoff": 8}
    return {"title": title, "automargin": True, "zeroline": False, "type": "log" if log else "linear"}


def differences_figure(report: Report) -> Figure | None:
    """Each run less the baseline's of the same block; runs after the last look are hollow, for no verdict has them."""
    runs = [run for run in report.runs if run.difference is not None]
    if not runs or report.design == "noise":
        return None
    blocks = sorted({run.block for run in report.runs}, key=natural)
    judged = blocks[: report.analysis.blocks] if report.analysis and report.looks_done else []
    names = [arm.name for arm in report.arms if any(run.arm == arm.name for run in runs)]
    layout = _layout(names, 28)
    layout["showlegend"] = False
    digits = effect_digits(report) + 1
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [run.difference for run in runs],
            "y": [names.index(run.arm) for run in runs],
            "text": [escape(f"{run.arm}, block {run.block}") for run in runs],
            "marker": {
                "color": "--ink/0.55",
                "size": 9,
                "symbol": ["circle" if run.block in judged else "circle-open" for run in runs],
                "line": {"width": 1.5, "color": "--ink/0.7"},
            },
            "hovertemplate": f"%{{text}}: %{{x:+.{digits}f}}<extra></extra>",
        }
    ]
    smallest = report.analysis.smallest_effect if report.analysis else None
    return _with_negligible({"data": data, "layout": layout}, smallest)


# Curves.


def curves_figure(report: Report, kind: str) -> Figure | None:
    """Loss against tokens, an arm a line with its band over seeds."""
    curves = {name: getattr(arm, kind) for name, arm in report.curves.items()}
    known = {name: curve for name, curve in curves.items() if curve is not None and len(curve.tokens) > 1}
    diverged = {name: arm.diverged for name, arm in report.curves.items() if arm.diverged} if kind == "training" else {}
    if not known and not diverged:
        return None
    data: list[Figure] = []
    first = [arm.name for arm in report.arms if arm.role != "exploratory"]
    first = (first if len(first) > 1 else list(report.curves))[: SHOWN + 1]
    for place, name in enumerate(report.curves):
        shown = True if name in first else "legendonly"
        color, dash = _looks(name, place)
        if name in known:
            data += _band(name, known[name], color, dash, shown)
        data += [_diverged(name, one, color, shown) for one in diverged.get(name, ())]
    unit = report.curve_loss if kind == "validation" or report.curve_loss == "loss" else "nats_per_token"
    seen = [known[name] for name in first if name in known]
    yaxis = _named(unit.replace("_", " ")) | {"range": _range(seen)}
    layout = _framed(400 + 12 * min(len(report.curves), 24), _named("tokens") | {"exponentformat": "SI"}, yaxis)
    layout["margin"]["t"] = 10
    layout["hovermode"] = "x unified" if len(known) <= 2 * SHOWN else "closest"
    return {"data": data, "layout": layout}


def _looks(name: str, place: int) -> tuple[str, str]:
    """Color and dash of an arm's line: the baseline's is that of text."""
    return ("--ink", "solid") if name == BASELINE else (
        f"--arm-{(place - 1) % HUES}", DASHES[(place - 1) // HUES % len(DASHES)])  # fmt: skip


def _band(name: str, curve: Curve, color: str, dash: str, shown: bool | str) -> list[Figure]:
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": escape(short(name)),
        "legendgroup": name,
        "visible": shown,
        "x": curve.tokens,
        "y": curve.mean,
        "line": {"color": color, "width": 2, "dash": dash},
        "hovertemplate": "%{y:.4f}",
    }
    if curve.runs < 2:
        return [line]
    band = {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": name,
        "visible": shown,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [*curve.tokens, *reversed(curve.tokens)],
        "y": [*curve.high, *reversed(curve.low)],
        "fill": "toself",
        "fillcolor": f"{color}/0.11",
        "line": {"width": 0},
    }
    return [band, line]


def _diverged(name: str, curve: Curve, color: str, shown: bool | str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{escape(short(name))}, diverged",
        "legendgroup": name,
        "visible": shown,
        "x": curve.tokens,
        "y": curve.mean,
        "line": {"color": color, "width": 1, "dash": "dot"},
        "hovertemplate": "%{y:.4f}",
    }


def _range(curves: Iterable[Curve]) -> list[float] | None:
    """From the best to what they were after a twentieth: the first steps would flatten all that is worth seeing."""
    lows: list[float] = []
    highs: list[float] = []
    for curve in curves:
        first = len(curve.tokens) // 20
        lows += [value for value in curve.low[first:] if value is not None]
        highs += [value for value in curve.high[first:] if value is not None]
    if not lows:
        return None
    low, high = min(lows), max(highs)
    room = 0.04 * (high - low) or 0.01
    return [low - room, high + room]


# Designs of their own.


def sweep_figure(report: Report) -> Figure | None:
    """The points of a sweep, its fitted curve, and where the optimum may lie."""
    sweep = report.sweep
    if sweep is None or not sweep["points"] or sweep["fit"] is None:
        return None
    return _surface(report, sweep) if len(sweep["fields"]) == 2 else _parabola(report, sweep)


def _parabola(report: Report, sweep: Mapping[str, Any]) -> Figure:
    fit, points, curve = sweep["fit"], sweep["points"], sweep["curve"]
    axis = curve["axes"][0]
    layout = _framed(420, _named(sweep["fields"][0], fit["logs"][0]), _named(metric_words(report.metric)))
    layout["margin"]["t"] = 10
    if fit["optimum"] is not None:
        low, best, high = fit["low"][0], fit["optimum"][0], fit["high"][0]
        rect = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": low, "x1": high}
        layout["shapes"] = [
            {**rect, "line": {"width": 0}, "fillcolor": "--helps/0.18", "layer": "below"},
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": best, "x1": best, "line": {"color": "--helps"}},
        ]
    dots = {"color": "--ink/0.55", "size": 8}
    return {
        "data": [
            {"type": "scatter", "mode": "markers", "name": "runs, less their blocks", "marker": dots,
             "x": [point["at"][0] for point in points], "y": [point["of_an_average_block"] for point in points],
             "text": [escape(f"{point['arm']}, block {point['block']}") for point in points],
             "hovertemplate": "%{text}: %{y:.5g}<extra></extra>"},
            {"type": "scatter", "mode": "lines", "name": "fitted curve", "line": {"color": "--arm-0", "width": 2},
             "x": axis, "y": curve["values"], "hovertemplate": "%{x:.4g}: %{y:.5g}<extra></extra>"},
            {"type": "scatter", "mode": "lines", "name": "its 95% band", "line": {"width": 0}, "fill": "toself",
             "fillcolor": "--arm-0/0.15", "x": [*axis, *reversed(axis)], "y": [*curve["high"], *reversed(curve["low"])],
             "hoverinfo": "skip"},
        ],
        "layout": layout,
    }  # fmt: skip


def _surface(report: Report, sweep: Mapping[str, Any]) -> Figure:
    fit, (x, y) = sweep["fit"], sweep["curve"]["axes"]
    values = sweep["curve"]["values"]
    layout = _framed(460, *(_named(field, log) for field, log in zip(sweep["fields"], fit["logs"], strict=True)))
    layout["margin"]["t"] = 10
    data: list[Figure] = [
        {"type": "contour", "x": x, "y": y, "z": [[row[i] for row in values] for i in range(len(y))],
         "colorscale": "Viridis", "reversescale": not report.higher_is_better, "contours": {"coloring": "heatmap"},
         "colorbar": {"title": {"text": metric_words(report.metric)}, "thickness": 12},
         "hovertemplate": "%{x:.4g}, %{y:.4g}: %{z:.5g}<extra></extra>"},
        {"type": "scatter", "mode": "markers", "name": "points that were run",
         "x": [point["at"][0] for point in sweep["points"]], "y": [point["at"][1] for point in sweep["points"]],
         "marker": {"color": "#ffffff", "size": 8, "line": {"color": "#000000", "width": 1.5}},
         "text": [escape(point["arm"]) for point in sweep["points"]], "hovertemplate": "%{text}<extra></extra>"},
    ]  # fmt: skip
    if fit["optimum"] is not None:
        star = {"symbol": "star", "size": 16, "color": "#ff4fa3", "line": {"color": "#ffffff", "width": 1}}
        data.append({"type": "scatter", "mode": "markers", "name": "best of the fitted surface", "marker": star,
                     "x": [fit["optimum"][0]], "y": [fit["optimum"][1]], "hoverinfo": "x+y+name"})  # fmt: skip
    return {"data": data, "layout": layout}


def grid_figure(report: Report) -> Figure | None:
    """The runs of a noise study: rows are seeds of initial weights, columns seeds of the data's order."""
    cells = [run for run in report.runs if not run.rerun and not run.factors and run.value is not None]
    if report.design != "noise" or not cells:
        return None
    rows, columns = (list(dict.fromkeys(run.seeds[role] for run in cells)) for role in (0, 1))
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for run in cells:
        values[rows.index(run.seeds[0])][columns.index(run.seeds[1])] = run.value
    across, down = ({**_named(f"seed of the {what}"), "type": "category"} for what in ("data's order", "first weights"))
    layout = _framed(150 + 44 * len(rows), across, {**down, "autorange": "reversed"})
    digits = effect_digits(report)
    heat = {"type": "heatmap", "x": [str(seed) for seed in columns], "y": [str(seed) for seed in rows], "z": values,
            "texttemplate": f"%{{z:.{digits}f}}", "colorscale": "Cividis", "showscale": False, "xgap": 2, "ygap": 2,
            "hovertemplate": "init %{y}, data %{x}: %{z:.6g}<extra></extra>"}  # fmt: skip
    return {"data": [heat], "layout": layout}
