"""A gallery as a page and as Markdown.

What a model writes may look like HTML or like Markdown; none of it is taken for that. The page is one file without
scripts, and forbids them.
"""

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from scratchlab.evaluation.gallery import Entry, Gallery, seed_of
from scratchlab.files import write_atomically

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 34, 14, 12, 34  # margins of the chart
LABELED = 12  # more points than that would write over each other's losses

STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #1d1d1f; --soft: #63636b; --line: #dcdad5; --box: #f4f2ee;
  --mark: #b3471d; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181b; --ink: #e8e6e3; --soft: #a0a0a8; --line: #37393f; --box: #212328; --mark: #ff9d73; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 0; padding-top: .5rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
p, figcaption { overflow-wrap: anywhere; }
.facts, figcaption { color: var(--soft); font-size: .875rem; margin: .25rem 0; }
.overview { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); }
svg a text { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid { stroke: var(--line); }
.curve { fill: none; stroke: var(--soft); stroke-width: 1.5; }
circle { fill: var(--mark); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .875rem; }
div:has(> table) { overflow-x: auto; }
th, td { text-align: right; padding: .25rem .4rem; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { color: var(--soft); font-weight: normal; vertical-align: bottom; }
a { color: var(--mark); }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; }
pre { margin: 0; padding: .75rem; background: var(--box); border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .875rem/1.45 ui-monospace, monospace; }
pre b { color: var(--mark); }
"""


def write_pages(gallery: Gallery, page: Path) -> tuple[Path, Path]:
    """Write the page and, beside it under the same name, the Markdown; gives the paths of both."""
    markdown = page.with_suffix(".md")
    write_atomically(page, to_html(gallery))
    write_atomically(markdown, to_markdown(gallery))
    return page, markdown


# What both say.


def visible(text: str) -> str:
    """The text with a symbol for each control character: a byte model that has learned little writes them all."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", _symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def loss_text(entry: Entry) -> str:
    """`2.5034 ± 0.0141 nats per token, 3.612 ± 0.020 bits per byte`."""
    loss = entry.loss
    if not entry.finite:
        return "a loss that is not finite"
    nats = _with_error(loss.nats_per_token, loss.nats_per_token_error, 4)
    return f"{nats} nats per token, {_with_error(loss.bits_per_byte, loss.bits_per_byte_error, 3)} bits per byte"


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def heading(entry: Entry) -> str:
    """`2.50 nats per token`."""
    return f"{entry.loss.nats_per_token:.2f} nats per token" if entry.finite else "Not finite"


def facts(entry: Entry) -> list[str]:
    """What there is to say of an entry besides its samples, in sentences."""
    kind = {"fresh": "fresh weights", "snapshot": "a snapshot", "best": "the best snapshot", "last": "the last weights"}
    found = [f"Step {entry.step:,}, {entry.tokens:,} tokens seen ({kind[entry.weights]}): {loss_text(entry)}."]
    found += [f"Asked for {loss:g}: {_away(entry.loss.nats_per_token - loss)}." for loss in entry.asked]
    if entry.known_words is not None and entry.words:
        known = f"{entry.known_words} of {entry.words} words of four letters and more"
        found.append(f"{known} occur in the training text ({known_share(entry)}).")
    if not entry.finite:
        found.append("Such weights cannot write.")
    return found


def _away(difference: float) -> str:
    return f"this is {abs(difference):.3f} {'above' if difference > 0 else 'below'}, and no weights are nearer"


def known_share(entry: Entry) -> str:
    return "-" if entry.known_words is None or not entry.words else f"{entry.known_words / entry.words:.0%}"


def how_made(gallery: Gallery) -> str:
    """The sampling that all entries have in common."""
    settings = gallery.settings
    kept = f"the {settings.top_k} likeliest tokens" if settings.top_k else "all tokens"
    return (
        f"Every text is drawn at temperature {settings.temperature:g} from {kept} with a seed for each prompt, at most "
        f"{settings.max_tokens} tokens. Nothing but the weights differs between entries."
    )


# Markdown.


def to_markdown(gallery: Gallery) -> str:
    """The gallery as Markdown (CommonMark with tables)."""
    lines = [f"# What {code_span(gallery.run)} writes at which loss", "", how_made(gallery), *gallery.notes, ""]
    lines += ["| step | tokens | nats per token | bits per byte | known words |", "|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(_cells(entry))} |" for entry in gallery.entries]
    for entry in gallery.entries:
        lines += ["", f"## {heading(entry)}", "", *facts(entry)]
        for number, (prompt, sample) in _written(gallery, entry):
            quoted = code_span(json.dumps(visible(prompt), ensure_ascii=False))
            begun = f"After {quoted}" if prompt else "From the beginning of a document"
            lines += ["", f"{begun}, seed {seed_of(gallery.settings, number)}:", "", fenced(prompt + sample)]
    return "\n".join(lines) + "\n"


def _written(gallery: Gallery, entry: Entry) -> list[tuple[int, tuple[str, str]]]:
    """The prompts with what came of them, numbered from 0; nothing if the weights cannot write."""
    return list(enumerate(zip(gallery.prompts, entry.samples, strict=True))) if entry.samples else []


def _cells(entry: Entry) -> list[str]:
    loss = entry.loss
    nats = f"{loss.nats_per_token:.4f}" if entry.finite else "not finite"
    bits = f"{loss.bits_per_byte:.3f}" if entry.finite else "not finite"
    return [f"{entry.step:,}", f"{entry.tokens:,}", nats, bits, known_share(entry)]


def _longest_run(text: str) -> int:
    """Of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def fenced(text: str) -> str:
    """A code block, fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def code_span(text: str) -> str:
    """Inline code, by as many backticks as it takes."""
    ticks = "`" * (_longest_run(text) + 1)
    space = " " * (text.startswith("`") or text.endswith("`"))
    return f"{ticks}{space}{text}{space}{ticks}"


# The page.


def to_html(gallery: Gallery) -> str:
    """The gallery as one page that needs no other file."""
    title = f"What {html.escape(gallery.run)} writes at which loss"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{html.escape(how_made(gallery))}</p>
<div class="overview">
{_chart(gallery)}
{_table(gallery)}
</div>
<p class="facts">{html.escape(" ".join(gallery.notes))}</p>
{"".join(_section(gallery, entry) for entry in gallery.entries)}</main>
</body>
</html>
"""


def _table(gallery: Gallery) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("step", "tokens", "nats per token", "bits per byte", "known words"))
    rows = ""
    for entry in gallery.entries:
        step, *others = _cells(entry)
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        rows += f'<tr><td><a href="#step-{entry.step}">{step}</a></td>{cells}</tr>\n'
    return f"<div><table>\n<tr>{heads}</tr>\n{rows}</table></div>"


def _section(gallery: Gallery, entry: Entry) -> str:
    samples = "".join(_sample(*pair, seed_of(gallery.settings, number)) for number, pair in _written(gallery, entry))
    return (
        f'<section id="step-{entry.step}">\n<h2>{heading(entry)}</h2>\n<p class="facts">'
        f'{html.escape(" ".join(facts(entry)))}</p>\n<div class="samples">\n{samples}</div>\n</section>\n'
    )


def _sample(prompt: str, sample: str, seed: int) -> str:
    begun = f"<b>{html.escape(visible(prompt))}</b>" if prompt else ""
    caption = f"{'After what is bold' if prompt else 'From the beginning of a document'}, seed {seed}"
    # The first newline after <pre> is not part of the text, so that one of the text's own would be lost.
    return (
        f"<figure>\n<figcaption>{caption}</figcaption>\n"
        f'<pre dir="auto">\n{begun}{html.escape(visible(sample))}</pre>\n</figure>\n'
    )


# The chart.


def _chart(gallery: Gallery) -> str:
    """Loss by the logarithm of the step: the training batches as a line, the entries as points that lead to them."""
    points = [(entry.step, entry.loss.nats_per_token) for entry in gallery.entries if entry.finite]
    losses = [loss for _, loss in [*gallery.curve, *points]]
    if not losses:
        return "<figure></figure>"
    last = max(step for step, _ in [*gallery.curve, *points, (1, 0.0)])
    ticks = loss_ticks(min(losses), max(losses))
    low, high = ticks[0], ticks[-1]

    def x(step: int) -> float:
        return LEFT + math.log1p(step) / math.log1p(last) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_loss_line(y(tick), tick) for tick in ticks]
    parts += [_step_mark(x(step), step) for step in step_ticks(last)]
    line = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in gallery.curve)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    parts += [_point(step, loss, x(step), y(loss), len(points) <= LABELED) for step, loss in points]
    return (
        f'<figure>\n<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by step">\n'
        + "\n".join(parts)
        + "\n</svg>\n<figcaption>Loss in nats per token by step. Line: training batches. Points: the entries, on the "
        "validation split.</figcaption>\n</figure>"
    )


def _loss_line(y: float, tick: float) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'


def _step_mark(x: float, step: int) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{step:,}</text>'


def _point(step: int, loss: float, x: float, y: float, labeled: bool) -> str:
    side = "middle" if x > LEFT + 12 else "start"  # where the axis has its own numbers
    label = f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="{side}">{loss:.2f}</text>' if labeled else ""
    where = f"step {step:,}: {loss:.4f} nats per token"
    return f'<a href="#step-{step}"><title>{where}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>{label}</a>'


def loss_ticks(low: float, high: float) -> list[float]:
    """Round losses from just below `low` to just above `high`: two at least, six at most."""
    span = max(high - low, 0.01)
    size = 10.0 ** math.floor(math.log10(span))
    step = next(size * part for part in (0.2, 0.5, 1, 2, 5) if span / (size * part) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * number, 6) for number in range(first, max(last, first + 1) + 1)]


def step_ticks(last: int) -> Sequence[int]:
    """0, 1 and powers of ten."""
    return [0, *(10**power for power in range(len(str(last))))]
