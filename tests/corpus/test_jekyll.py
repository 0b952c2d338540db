"""A Jekyll post becomes an author's prose: a small written example for each rule, and real posts if there are any."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.sources.jekyll import Post, clean_post, passed_over, posts
from scratchlab.errors import CorpusError, MissingExtraError

NAME = "2024-01-31-a-post.md"


def clean(body: str, code: bool = True) -> Post:
    return clean_post(f"---\ntitle: T\n---\n{body}", NAME, code)


def text(body: str, code: bool = True) -> str:
    """What comes below the title."""
    return clean(body, code).text.removeprefix("T").removeprefix("\n\n")


def refusal(raw: str) -> str:
    with pytest.raises(CorpusError) as caught:
        clean_post(raw, NAME)
    return str(caught.value)


# Finding posts.


def test_a_site_has_its_posts_wherever_jekyll_looks_and_no_drafts(write, tmp_path):
    kept = ["_posts/2024-01-02-b.md", "_posts/deep/2023-01-01-c.markdown", "news/_posts/2020-1-2-a.html"]
    left = ["_posts/notes.md", "_posts/2024-01-02-d.textile", "_posts/2024-01-02-e.png"]
    never = ["README.md", "_drafts/2024-01-01-f.md", "_posts/_drafts/2024-01-01-g.md", "_site/_posts/2024-01-01-h.md"]
    for path in (*kept, *left, *never, "vendor/_posts/2024-01-01-i.md", "_posts/.2024-01-01-j.md"):
        write(f"site/{path}", "x")
    site = tmp_path / "site"
    assert [path.relative_to(site).as_posix() for path in posts(site)] == kept
    assert passed_over(site) == {
        ".textile is not read": ["_posts/2024-01-02-d.textile"],
        ".png is not read": ["_posts/2024-01-02-e.png"],
        "not named like 2024-01-31-title.md": ["_posts/notes.md"],
    }


def test_a_folder_of_posts_will_do(write, tmp_path):
    for path in ("2024-01-02-b.md", "2023-01-01-c.md", "_drafts/2024-01-01-d.md"):
        write(f"mine/{path}", "x")
    assert [path.name for path in posts(tmp_path / "mine")] == ["2023-01-01-c.md", "2024-01-02-b.md"]


def test_no_posts_is_an_error_that_says_what_is_there(write, tmp_path):
    write("mine/about.md", "x")
    with pytest.raises(CorpusError, match=r"holds no Jekyll posts.*2024-01-31-title.md: about.md"):
        posts(tmp_path / "mine")
    with pytest.raises(CorpusError, match="is not a folder"):
        posts(tmp_path / "mine/about.md")


# Front matter.


def test_front_matter_gives_title_and_date_and_is_gone():
    post = clean_post("---\nlayout: post\ntitle: 'A: B'\ndate: 2013-05-08 12:00:00 -0400\n---\n\nHello.\n", NAME)
    assert (post.title, post.date, post.text) == ("A: B", "2013-05-08", "A: B\n\nHello.")
    assert post.published
    assert post.removed == {"front matter": ("layout: post\ntitle: 'A: B'\ndate: 2013-05-08 12:00:00 -0400",)}


@pytest.mark.parametrize(
    "raw", ["Hello.", "---\n---\nHello.", "---\nlayout: x\n...\nHello.", "---\n# x\n---  \nHello."]
)
def test_without_a_title_the_file_name_speaks(raw):
    post = clean_post(raw, "some/where/2024-1-31-my-first_post.md")
    assert (post.text, post.date) == ("My First Post\n\nHello.", "2024-01-31")


def test_an_unpublished_post_says_so():
    assert not clean_post("---\npublished: false\n---\nx", NAME).published


def test_a_title_is_without_html_and_is_not_repeated():
    assert clean_post("---\ntitle: <em>Hot</em> &amp; cold\n---\nx", NAME).title == "Hot & cold"
    assert clean_post("---\ntitle: A List<T>\n---\nx", NAME).title == "A List<T>"
    assert clean_post("---\ntitle: Same\n---\n# same\n\nx", NAME).text == "Same\n\nx"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("---\ntitle: a\nb: c: d\n---\nx", "line 3: the front matter is not YAML"),
        ("---\ntitle: [a\n---\nx", "the front matter is not YAML"),
        ("---\ntitle: a\ndate: 2013-02-30\n---\nx", "the front matter is not YAML: day"),
        ("---\n- a\n---\nx", "line 2: the front matter is not of the form"),
        ("---\ntitle: a\n\nx", "line 1: the front matter opens with --- and is never closed"),
    ],
)
def test_bad_front_matter_names_file_and_line(raw, line):
    assert refusal(raw).startswith(NAME)
    assert line in refusal(raw)


# Liquid.


def test_liquid_runs_as_in_jekyll():
    body = '{% assign names = "a|b" | split: "|" %}\n{% for n in names %}\n- {{ n | upcase }}\n{% endfor %}\n'
    assert text(body) == "- A\n- B"
    assert text("{% if page.title == 'T' %}yes{% else %}no{% endif %} {{ page.title }}") == "yes T"
    assert text("{{ page.date | date_to_string }}|{{ page.date | date: '%Y' }}") == "31 Jan 2024|2024"
    assert text('{% assign l = "a,b,c" | split: "," %}{{ l | array_to_sentence_string }}') == "a, b, and c"
    assert text("{% comment %}not\n\nthis{% endcomment %}but this") == "but this"
    assert clean("a {{ page.title }} {%- comment %}b{% endcomment -%} c").removed["liquid"] == (
        "{{ page.title }}",
        "{% comment %}",
        "{% endcomment %}",
    )


def test_raw_and_highlight_keep_what_they_hold():
    assert text("Say `{% raw %}{{ site.url }}{% endraw %}` now.") == "Say {{ site.url }} now."
    body = (
        "Code:\n{% highlight ruby linenos %}\n*a* = <b>\n\n  {% raw %}{{ c }}{% endraw %}\n{% endhighlight %}\nAfter.\n"
    )
    assert text(body) == "Code:\n\n*a* = <b>\n\n  {{ c }}\n\nAfter."
    assert text(body, code=False) == "Code:\n\nAfter."
    assert clean(body, code=False).removed["code block"] == ("*a* = <b>\n\n  {{ c }}",)
    assert "html" not in clean(body).removed
    assert (
        text("- one\n\n  {% highlight sh %}\nls\n\nrm\n  {% endhighlight %}\n- two") == "- one\n\n  ls\n\n  rm\n\n- two"
    )
    assert text("`{% highlight c %}x{% endhighlight %}`") == "x"


def test_links_of_jekyll_become_their_text():
    assert text("See [it]({% link _posts/2017-01-18-a.md %}) and\n[that][x].\n\n[x]: {% post_url 2013-05-06-b %}") == (
        "See it and that."
    )
    assert text('[a]({{ "/b" | relative_url }}) [c]({{ site.url }}) [d][e]\n\n[e]: {{ site.url }}\n') == "a c d"


def test_the_address_of_a_post_is_known_to_be_one():
    assert "unknown liquid" not in clean("[a]({% post_url 2013-05-06-b %}) [c]({% link d.md %})").removed


def test_what_needs_the_site_or_is_not_known_goes_and_is_reported():
    post = clean('A {% gist 1 %}{% include a.html b="c" %}{{ site.motto }}{% tweet 5 %}{{ "x" | frob: 1 }}.')
    assert post.text == "T\n\nA x."
    assert post.removed["unknown liquid"] == ("{% tweet %}", "site.motto", "| frob")
    assert len(post.removed["liquid"]) == 5
    assert text("{% note %}\nKept.\n{% endnote %}") == "Kept."
    assert clean("{{ | }}{{ 1 | divided_by: 0 }}a").text == "T\n\na"
    assert len(clean("{{ | }}{{ 1 | divided_by: 0 }}a").removed["unknown liquid"]) == 2


def test_the_same_post_is_the_same_text_every_day():
    assert text("On {{ 'now' | date: '%s' }}it.") == "On it."


def test_liquid_can_be_turned_off():
    assert clean_post("---\nrender_with_liquid: false\n---\n{{ x }} {% y", NAME).text.endswith("\n\n{{ x }} {% y")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("a\n{% if b %}\nc", "line 5: Liquid: {% if %} is never closed"),
        ("a\n\n{% raw %}\nc", "line 6: Liquid: {% raw %} is never closed"),
        ("{% highlight c %}x", "line 4: Liquid: {% highlight %} is never closed"),
        ("{% comment %}x", "line 4: Liquid: {% comment %} is never closed"),
        ("x {% endif %}", "line 4: Liquid: {% endif %} closes nothing"),
        ("{% if a %}\n{% for b in c %}\n{% endif %}", "line 6: Liquid: {% endif %} before {% for %} is closed"),
        ("x\nb {{ c", "line 5: Liquid: expected '}}'"),
        ("x\nb {% c", "line 5: Liquid: missing tag name or closing delimiter"),
        ("{% for i in (1..9999999) %}.{% endfor %}", "line 4: Liquid: loop iteration limit"),
    ],
)
def test_liquid_that_stops_jekyll_names_file_and_line(body, problem):
    message = refusal(f"---\ntitle: T\n---\n{body}")
    assert message.startswith(f"{NAME}, {problem}")
    assert "{% raw %}" in message


def test_lines_are_counted_from_the_start_of_the_file():
    assert f"{NAME}, line 2" in refusal("x\n{% if a %}")
    assert f"{NAME}, line 5" in refusal("---\ntitle: T\n---\n\n{% if a %}")


# Kramdown.


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[a](b){:target='_blank' .c} d", "a d"),
        ("*a*{: .b #c} `d`{:.e}", "a d"),
        ("a\n{: .note}\n\nb\n{:.x y='z'}", "a\n\nb"),
        ("{: .note}\n> a", "a"),
        ("> a\n{:b='c'}", "a"),
        ("- {:.x} a\n- b\n{: .list}", "- a\n- b"),
        ("|a|b|\n|-|-|\n|c|d|\n{: .table}", "a | b\nc | d"),
        ("* TOC\n{:toc}\n\na", "a"),
        ("1. a\n{:.no_toc}", "1. a"),
        ("# A {#top}\n\n## B {: .c}", "A\n\nB"),
        ("{::options toc_levels='1' /}\na {::comment}b{:/comment}c", "a c"),
        ("a\n\n{::comment}\nb\n\nc\n{:/comment}\n\nd", "a\n\nd"),
        ("{::nomarkdown}<b>a</b>{:/}", "a"),
        ("An HTML page.\n\n*[HTML]: HyperText", "An HTML page."),
        ("It returns {:ok, value} or {:error}.", "It returns {:ok, value} or {:error}."),
        ("Or `{:ok}` and\n\n    {: .x}", "Or {:ok} and\n\n{: .x}"),
        ('<div markdown="1">\n*a* and **b**\n</div>', "a and b"),
    ],
)
def test_marks_of_kramdown_go(body, expected):
    assert text(body) == expected


def test_a_removed_mark_is_reported():
    assert clean("a *b*{: .c}\n{: .d}").removed["kramdown"] == ("{: .d}", "{: .c}")
    assert clean("# A {#b}").removed["kramdown"] == ("{#b}",)


def test_footnotes_are_numbered_as_cited_and_stand_at_the_end():
    notes = "[^a]: First *note*.\n[^b]: Second\n    goes on.\n\n    And on.\n[^c]: Never."
    body = f"One[^b] two[^a], again[^b].\n\n{notes}\n\nEnd [^d]."
    assert text(body) == ("One[1] two[2], again[1].\n\nEnd [^d].\n\n[1] Second goes on.\n\nAnd on.\n\n[2] First note.")
    assert clean(body).removed["footnote"] == ("Never.",)


# Markdown and HTML.


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("One\ntwo.\n\n\nThree  \nfour.", "One two.\n\nThree\nfour."),
        ("# A\ntext\n\nB\n---\n***\nc", "A\n\ntext\n\nB\n\nc"),
        ("*a* __b__ ~~c~~ `d  e`", "a b c d e"),
        ("[a](http://b \"c\") <http://d> [e] \\*f\\*", "a http://d [e] *f*"),
        ("![a cat](b.png) ![](c.png)", "a cat"),
        ("- a\n- b\n  - c\n  - d\n\ne", "- a\n- b\n  - c\n  - d\n\ne"),
        ("3. a\n4. b\n   - c", "3. a\n4. b\n   - c"),
        ("- a\n\n- b", "- a\n- b"),
        ("- a\n\n  b\n\n- c", "- a\n\n  b\n\n- c"),
        ("> a\n> b\n>\n> - c", "a b\n\n- c"),
        ("| a | *b* |\n|---|---|\n| c | |", "a | b\nc | "),
        ("&lt;p&gt; &amp; &copy;&nbsp;x &#39;", "<p> & © x '"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("a <span class='x'>b</span> <!-- c --> <kbd>d</kbd>", "a b d"),
        ("<script>\nif (a < b) {}\n\nc\n</script>\n\n<style>d</style>\n\ne", "e"),
        ("a\n\n<iframe src='b'>c</iframe>\n<noscript><p>d</p></noscript>\n\n<video controls>e</video>", "a"),
        ("<div>a</div><div>b <p>c</p> d</div>", "a\n\nb\n\nc\n\nd"),
        ("<dl><dt>a</dt><dd>b</dd></dl>", "a\n\nb"),
        ("<table><caption>c</caption><tr><th>a</th><td>b<br>d</td></tr></table>", "c\n\na | b d"),
        ("<figure><img src='a' alt='b'><figcaption>c</figcaption></figure>", "b\n\nc"),
        ("a\n\n<!-- b\n\nc -->\n\nd", "a\n\nd"),
        ("<table><tr><td><table><tr><td>a</td></tr></table></td></tr></table>", "a"),
        ("Straight \"quotes\" -- and ... stay.", "Straight \"quotes\" -- and ... stay."),
    ],
)  # fmt: skip
def test_prose_is_as_a_reader_sees_it(body, expected):
    assert text(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        "```c\na  <b>\n\n  *d*\n```",
        "~~~\na  <b>\n\n  *d*\n~~~",
        "    a  <b>\n\n      *d*",
        "<pre><code>a  &lt;b&gt;\n\n  *d*</code></pre>",
    ],
)
def test_code_blocks_are_kept_to_the_letter_or_dropped(body):
    assert text(f"x\n\n{body}\n\ny") == "x\n\na  <b>\n\n  *d*\n\ny"
    post = clean(f"x `z`\n\n{body}\n\ny", code=False)
    assert post.text == "T\n\nx z\n\ny"
    assert post.removed["code block"] == ("a  <b>\n\n  *d*",)


def test_an_html_post_is_not_markdown():
    assert clean_post("---\ntitle: T\n---\n<p>*a*\n    {{ page.title }}</p>", "2024-01-31-a.html").text == "T\n\n*a* T"


def test_what_was_taken_out_can_be_seen():
    post = clean("<p class='a'>[b](c)</p> ![d](e)\n\n<!-- f --><iframe src='g'></iframe>\n\n[h](i)")
    assert post.removed == {
        "front matter": ("title: T",),
        "html": ("<p class='a'>", "<iframe src='g'>"),
        "comment": ("<!-- f -->",),
        "embed": ('<iframe src="g"></iframe>',),
        "link": ("i",),
    }
    assert clean("![d](e)").removed["image"] == ("e",)


def test_too_deep_is_an_error_and_not_a_crash():
    assert "too deep" in refusal("<div>" * 5000)


def test_a_missing_package_gives_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "liquid", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[blog\]"):
        clean_post("x", NAME)


# Properties.

WORDS = st.lists(st.from_regex(r"[A-Za-zéß]{1,9}[,.;?]?", fullmatch=True), min_size=1, max_size=8).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_plain_prose_stays_as_it_is(paragraphs):
    prose = "\n\n".join(paragraphs)
    assert clean(prose).text == f"T\n\n{prose}" or paragraphs[0].casefold() == "t"


MARKS = st.sampled_from(
    ["a", "é", "\u2028", " ", "\n", "\n\n", "    ", "*", "`", "```\n", "- ", "> ", "# ", "|", "[", "](", ")", "&lt;",
     "{: .x}", "{::comment}", "{:/}", "[^1]", "[^1]: ", "* TOC\n{:toc}\n", "{{ b }}", "{{", "}}", "{% if c %}",
     "{% endif %}", "{% raw %}", "{% endraw %}", "{% highlight c %}", "{% endhighlight %}", "<p>", "</p>", "<li>",
     "<table>", "<td>", "<pre>", "<!--", "-->", "<script>"]
)  # fmt: skip


@given(st.lists(MARKS, max_size=30).map("".join), st.booleans())
def test_anything_becomes_text_or_a_clear_error(body, code):
    try:
        post = clean(body, code)
    except CorpusError as error:
        assert f"{NAME}, line " in str(error)  # noqa: PT017  not the whole point: text will do as well
    else:
        assert post.text.startswith("T")
        assert not re.search(r"\n\n\n|[ \t]\Z", post.text) or "    " in body or "```" in body or "<pre>" in body


# Real posts.

DATA = os.environ.get("SCRATCHLAB_DATA")


@pytest.mark.skipif(not DATA, reason="SCRATCHLAB_DATA names no folder with jekyll_posts in it")
@pytest.mark.parametrize("code", [True, False])
def test_real_posts_come_out_clean(code):
    sites = sorted(path for path in Path(str(DATA), "jekyll_posts").iterdir() if path.is_dir())
    paths = [path for site in sites for path in posts(site)]
    assert paths
    for path in paths:
        raw = path.read_text(encoding="utf-8")
        post = clean_post(raw, path.name, code)
        assert post.title
        assert post.date
        assert post.text.startswith(post.title)
        assert not re.search(r"^(layout|categor(y|ies)|authors?): ", post.text, re.MULTILINE)
        as_written = "".join(re.findall(r"\{% raw %\}(.*?)\{% endraw %\}", raw, re.DOTALL))
        for liquid in re.findall(r"\{%.*?%\}|\{\{[^{}\n]*\}\}", post.text):
            assert liquid in as_written, post.title
        if not code:  # what looks like a tag was in a span of code
            spans = " ".join(span for _, span in re.findall(r"(`+)(.+?)\1", raw))
            assert [tag for tag in re.findall(r"</?[a-z]\w*[^<>]*>", post.text) if tag not in spans] == [], post.title
            assert not re.search(r"^```|\]\(http|^#+ |\*\*\w", post.text, re.MULTILINE), post.title
