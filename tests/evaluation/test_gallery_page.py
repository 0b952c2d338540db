"""The gallery's page and its Markdown: all that was written can be read there, and none of it does anything."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from scratchlab.evaluation.gallery import Entry, Gallery
from scratchlab.evaluation.gallery_page import facts, loss_ticks, step_ticks, to_html, to_markdown, visible, write_pages
from scratchlab.evaluation.loss import LossResult
from scratchlab.generation.engine import Settings
from tiny import modest

NASTY = [
    "<script>alert(1)</script>",
    "</pre></main><img src=x onerror=alert(1)>",
    "\n\nleading newlines, and a trailing one\n",
    "&lt;b&gt; &amp; &#0;",
    "```\nfence\n`````python\n",
    "bytes \x00\x07\r\n\x1b[31m\x7f\x9f\ufffd",
    "    four spaces\n\ttab",
    "<!-- ]]> -->",
    "",
]
PROMPTS = ("", "It was", "```\n<b>`")


def loss(nats: float) -> LossResult:
    return LossResult(nats, 0.01, nats / math.log(2), None, math.exp(nats), None, 1000, 1000, 32, "stretches")


def entry(step: int, nats: float, samples: tuple[str, ...], **others: float | tuple[float, ...]) -> Entry:
    return Entry(step, "snapshot", step * 100, loss(nats), samples=samples, **others)


def gallery(entries: list[Entry], prompts: tuple[str, ...] = PROMPTS, run: str = "runs/first") -> Gallery:
    curve = tuple((step, 4.0 - step / 100) for step in range(100))
    return Gallery(run, 100, prompts, Settings(seed=3), tuple(entries), curve, ("A note with <i>.",))


def texts_of_page(page: str) -> list[str]:
    return [node.text() for node in LexborHTMLParser(page).css("pre")]


def texts_of_markdown(markdown: str) -> list[str]:
    return [token.content.removesuffix("\n") for token in MarkdownIt().parse(markdown) if token.type == "fence"]


@pytest.mark.parametrize("sample", NASTY)
def test_a_text_is_shown_in_full_and_as_text(sample: str) -> None:
    made = gallery([entry(0, 4.0, (sample,) * 3), entry(50, 2.5, ("plain",) * 3)])
    wanted = [visible(prompt + text) for text in (sample, "plain") for prompt in PROMPTS]
    assert texts_of_page(to_html(made)) == wanted
    assert texts_of_markdown(to_markdown(made)) == wanted


@modest
@given(st.text(max_size=60), st.text(max_size=20))
def test_so_is_any_text(sample: str, prompt: str) -> None:
    made = gallery([entry(0, 4.0, (sample,))], (prompt,))
    assert texts_of_page(to_html(made)) == [visible(prompt + sample)]
    assert texts_of_markdown(to_markdown(made)) == [visible(prompt + sample)]


def test_the_page_is_alone_and_runs_nothing() -> None:
    made = gallery([entry(0, 4.0, tuple(NASTY[:3]))], run="runs/<script>x</script>")
    page = LexborHTMLParser(to_html(made))
    assert not page.css("script, img, link, iframe, object, [src], [onerror]")
    policy = page.css_first("meta[http-equiv=Content-Security-Policy]").attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert (
        page.css_first("title").text()
        == page.css_first("h1").text()
        == "What runs/<script>x</script> writes at which loss"
    )
    assert "http" not in re.sub(r"http-equiv", "", to_html(made))


def test_points_and_rows_lead_to_their_entries() -> None:
    made = gallery([entry(0, 4.0, ("a",) * 3), entry(7, math.nan, ()), entry(50, 2.5, ("b",) * 3)])
    page = LexborHTMLParser(to_html(made))
    sections = [node.attributes["id"] for node in page.css("section")]
    assert sections == ["step-0", "step-7", "step-50"]
    assert [node.attributes["href"] for node in page.css("td a")] == [f"#{name}" for name in sections]
    assert [node.attributes["href"] for node in page.css("svg a")] == ["#step-0", "#step-50"], "no place for a NaN"
    down = [float(str(node.attributes["cy"])) for node in page.css("circle")]
    assert down[0] < down[1], "a lower loss stands lower"
    assert [node.text() for node in page.css("section h2")] == [
        "4.00 nats per token",
        "Not finite",
        "2.50 nats per token",
    ]
    assert len(page.css("pre")) == 6


def test_many_points_have_no_labels() -> None:
    few, many = (gallery([entry(n, 4 - n / 50, ("", "", "")) for n in range(count)]) for count in (12, 13))
    assert [len(LexborHTMLParser(to_html(made)).css("svg a text")) for made in (few, many)] == [12, 0]


def test_a_run_that_never_had_a_finite_loss_has_no_chart() -> None:
    made = Gallery("r", 1, ("",), Settings(), (entry(0, math.nan, ()),), (), ())
    assert not LexborHTMLParser(to_html(made)).css("svg")
    assert "Such weights cannot write." in to_markdown(made)


def test_what_is_said_of_an_entry() -> None:
    said = " ".join(facts(entry(50, 2.5, ("a",), asked=(2.0, 2.75), words=8, known_words=6)))
    assert "Step 50, 5,000 tokens seen (a snapshot): 2.5000 ± 0.0100 nats per token, 3.607 bits per byte." in said
    assert "Asked for 2: this is 0.500 above" in said
    assert "Asked for 2.75: this is 0.250 below" in said
    assert "6 of 8 words of four letters and more occur in the training text (75%)." in said


def test_seeds_and_prompts_are_named() -> None:
    markdown = to_markdown(gallery([entry(0, 4.0, ("x", "y", "z"))]))
    assert "From the beginning of a document, seed 3:" in markdown
    assert 'After `"It was"`, seed 4:' in markdown
    assert '````"```\\n<b>`"````, seed 5:' in markdown
    assert "seed 4" in LexborHTMLParser(to_html(gallery([entry(0, 4.0, ("x", "y", "z"))]))).css("figcaption")[2].text()


@modest
@given(st.floats(0, 12), st.floats(0, 12))
def test_ticks_are_round_and_hold_all_losses(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = loss_ticks(low, high)
    assert ticks[0] <= low + 1e-6
    assert ticks[-1] >= high - 1e-6
    assert 2 <= len(ticks) <= 6
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_steps_are_marked_by_powers_of_ten() -> None:
    assert step_ticks(2000) == [0, 1, 10, 100, 1000]
    assert step_ticks(10) == [0, 1, 10]
    assert step_ticks(9) == [0, 1]


def test_both_files_are_written_side_by_side(tmp_path: Path) -> None:
    made = gallery([entry(0, 4.0, ("x", "y", "z"))])
    page, markdown = write_pages(made, tmp_path / "pages/mine.v2.html")
    assert (page.name, markdown.name) == ("mine.v2.html", "mine.v2.md")
    assert page.read_text(encoding="utf-8") == to_html(made)
    assert markdown.read_text(encoding="utf-8") == to_markdown(made)
