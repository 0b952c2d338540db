"""Mixtures: shares of tokens that are met, no document more often than allowed, the same draw every time."""

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import story

from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building import work
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.building.mixture_file import read_mixture
from scratchlab.corpus.sources import documents
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.store import Corpus
from scratchlab.errors import CorpusError, UsageError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 stories that begin with `web`, 20 with `own`."""
    folder = tmp_path_factory.mktemp("texts")
    for name, count in {"web": 60, "own": 20}.items():
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number:02}.txt").write_text(f"{name} {number}: {story(number)}")
    return folder


def built(folders: Path, out: Path, web: float, own: float, repeat: int = 1, **mixture: int) -> Corpus:
    sources = [
        Source(str(folders / "web"), "web", weight=web),
        Source(str(folders / "own"), "own", weight=own, repeat=repeat),
    ]
    return build_corpus(sources, out, "byte", "hash:.8,.1,.1", mixture=Mixture(**mixture))


def counted(corpus: Corpus, split: str) -> Counter[str]:
    return Counter(corpus.documents(split))


def share(corpus: Corpus, split: str, name: str) -> float:
    sizes = Counter[str]()
    for document in corpus.documents(split):
        sizes[document.split()[0]] += len(document.encode()) + 1  # and <|endoftext|>
    return sizes[name] / sizes.total()


@pytest.mark.parametrize(("web", "own", "repeat"), [(0.5, 0.5, 1), (3, 1, 1), (1, 2, 4), (0.9, 0.1, 1)])
def test_weights_are_shares_of_the_tokens(folders, tmp_path, web, own, repeat):
    corpus = built(folders, tmp_path / "out", web, own, repeat)
    longest = max(len(text) for text in counted(corpus, "train"))
    tolerance = longest / corpus.manifest.splits["train"].tokens
    assert share(corpus, "train", "own") == pytest.approx(own / (web + own), abs=tolerance)


def test_as_much_is_used_as_the_repeats_allow(folders, tmp_path):
    corpus = built(folders, tmp_path / "out", 1, 2, repeat=4)
    times = counted(corpus, "train")
    own = [count for text, count in times.items() if text.startswith("own")]
    web = [count for text, count in times.items() if text.startswith("web")]
    assert set(web) == {1}
    assert max(own) - min(own) <= 1, "whole rounds come first"
    assert max(own) <= 4


def test_what_judges_is_never_repeated(folders, tmp_path):
    corpus = built(folders, tmp_path / "out", 1, 3, repeat=9)
    for split in ("validation", "test"):
        assert set(counted(corpus, split).values()) == {1}
    assert not counted(corpus, "train").keys() & counted(corpus, "test").keys()


def test_the_draw_depends_on_the_seed_and_on_nothing_else(folders, tmp_path):
    first, again, other = (
        built(folders, tmp_path / name, 1, 1, seed=seed) for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert first.sha256 == again.sha256 != other.sha256
    assert first.text("train") != other.text("train")


def test_documents_of_the_sources_are_mixed(folders, tmp_path):
    names = "".join(text[0] for text in built(folders, tmp_path / "out", 1, 1).documents("train"))
    assert "wo" in names[: len(names) // 2]
    assert "ow" in names[len(names) // 2 :]


def test_a_wanted_number_of_tokens_is_met_or_said_to_be_too_many(folders, tmp_path):
    corpus = built(folders, tmp_path / "out", 1, 1, tokens=1_000)
    assert corpus.manifest.splits["train"].tokens == pytest.approx(1_000, abs=300)
    with pytest.raises(
        CorpusError, match=r"web has [\d,]+ tokens to train on and may be used 1 times; 50.0% of 90,000"
    ):
        built(folders, tmp_path / "more", 1, 1, tokens=90_000)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_manifest_says_what_was_asked_for(folders, tmp_path):
    manifest = built(folders, tmp_path / "out", 3, 1, repeat=2).manifest
    assert [(source.source, source.weight, source.repeat) for source in manifest.sources] == [
        ("web", 3, 1),
        ("own", 1, 2),
    ]


def test_the_manifest_says_what_was_drawn(folders, tmp_path):
    corpus = built(folders, tmp_path / "out", 1, 2, repeat=4)
    for source in corpus.manifest.sources:
        assert list(source.drawn) == ["train", "validation", "test"]
        for split, drawn in source.drawn.items():
            times = Counter({text: n for text, n in counted(corpus, split).items() if text.startswith(source.source)})
            assert (drawn.documents, drawn.distinct_documents) == (times.total(), len(times))
            assert drawn.tokens == sum((len(text.encode()) + 1) * n for text, n in times.items())
    own = corpus.manifest.sources[1].drawn["train"]
    assert own.documents > 2 * own.distinct_documents
    assert own.distinct_documents < corpus.manifest.sources[1].documents
    for split, record in corpus.manifest.splits.items():
        assert sum(source.drawn[split].tokens for source in corpus.manifest.sources) == record.tokens


def test_what_was_drawn_is_shown(folders, tmp_path):
    corpus = built(folders, tmp_path / "out", 1, 2, repeat=4)
    shown = CliRunner().invoke(cli, ["corpus", "show", str(corpus.path)]).output
    own = corpus.manifest.sources[1].drawn["train"]
    share = own.tokens / corpus.manifest.splits["train"].tokens
    times = own.documents / own.distinct_documents
    assert (
        f"drawn for train: {share:.1%} of its tokens, {own.tokens:,}; {own.distinct_documents} documents, {times:.1f} "
        "times each on average\n"
    ) in shown
    assert "drawn for test: " in shown


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=5)
def test_any_weights_can_be_met_without_a_number_of_tokens(folders, web, own, repeat):
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        corpus = built(folders, Path(name) / "out", web, own, repeat)
        assert share(corpus, "train", "own") == pytest.approx(own / (web + own), abs=0.05)


# As a file.


def test_a_mixture_file_says_all_of_it(write):
    path = write(
        "mix.toml",
        'tokens = 1_000\nseed = 3\n[[source]]\nfrom = "a.txt"\nweight = 1\n'
        '[[source]]\nname = "b"\nfrom = "posts/"\nweight = 0.5\nrepeat = 2\njekyll = true\ncode = false\n',
    )
    sources, mixture = read_mixture(Path(path))
    assert mixture == Mixture(3, 1_000)
    assert [(source.name, source.location, source.weight, source.repeat) for source in sources] == [
        ("", "a.txt", 1, 1),
        ("b", "posts/", 0.5, 2),
    ]
    assert (sources[1].blog, sources[1].reading.code) == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens = ", "is not TOML"),
        ("tokens = 5", "source: Field required"),
        ('[[source]]\nfrom = "a"\nweight = 0', "source 1, weight: Input should be greater than 0"),
        ('[[source]]\nfrom = "a"\nweight = 1\n[[source]]\nfrom = "b"\nweight = nan', "source 2, weight: "),
        ('[[source]]\nfrom = "a"\nweight = 1\nrepeat = 0', "source 1, repeat: "),
        ('[[source]]\nfrom = "a"\nweight = 1\nrepeats = 2', "source 1, repeats: Extra inputs are not permitted"),
        ('[[source]]\nweight = 1\n[[source]]\nfrom = "b"', "source 1, from: Field required\n  source 2, weight: "),
    ],
)
def test_mistakes_in_the_file_are_all_named(write, text, message):
    with pytest.raises(UsageError, match=r"mix\.toml is not") as caught:
        read_mixture(Path(write("mix.toml", text)))
    assert message in str(caught.value)


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_a_weight_that_is_no_share_is_refused(folders, tmp_path, weight):
    with pytest.raises(UsageError, match=r"web: weight .* is not above 0\. Leave the source out instead"):
        built(folders, tmp_path / "out", weight, 1)


def test_all_sources_of_a_mixture_have_weights(folders, tmp_path):
    sources = [Source(str(folders / "web"), weight=1.0), Source(str(folders / "own"))]
    with pytest.raises(UsageError, match="In a mixture every source has a weight"):
        build_corpus(sources, tmp_path / "out", mixture=Mixture())


def test_two_sources_of_the_same_name_are_refused(folders, tmp_path):
    sources = [Source(str(folders / "web"), "mine"), Source(str(folders / "own"), "mine")]
    with pytest.raises(UsageError, match=r"Two sources are called mine\. Give each once"):
        build_corpus(sources, tmp_path / "out")
    with pytest.raises(UsageError, match=r"Two sources are called .*web\. Give each once"):
        build_corpus([str(folders / "web"), str(folders / "web")], tmp_path / "out")


@pytest.mark.parametrize("rule", ["hash:.8,.1,.1", "hash"])
def test_a_source_of_one_document_is_trained_on_alone(folders, tmp_path, rule):
    (tmp_path / "mine.txt").write_text("".join(story(number) for number in range(100, 110)))
    sources = [
        Source(str(folders / "web"), "web", weight=0.9),
        Source(str(tmp_path / "mine.txt"), "mine", weight=0.1, repeat=4),
    ]
    corpus = build_corpus(sources, tmp_path / "out", "byte", rule, mixture=Mixture())
    assert counted(corpus, "validation").keys().isdisjoint(counted(corpus, "train"))
    assert corpus.manifest.splits["test"].tokens > 0


def test_a_source_that_gives_nothing_to_train_on_is_named(folders, tmp_path):
    (tmp_path / "copy.txt").write_text((folders / "web" / "07.txt").read_text())
    sources = [Source(str(folders / "web"), "web", weight=0.5), Source(str(tmp_path / "copy.txt"), "copy", weight=0.5)]
    with pytest.raises(CorpusError, match=r"copy gives nothing to the training split\. Split by contiguous regions"):
        build_corpus(sources, tmp_path / "out", "byte", "hash", mixture=Mixture())


@pytest.mark.parametrize("part_bytes", [50, 2**20])
@pytest.mark.parametrize("rule", ["contiguous:.5,.3,.2", "contiguous:.6,0,.4"])
def test_each_source_has_contiguous_regions_of_its_own(tmp_path, monkeypatch, part_bytes, rule):
    monkeypatch.setattr(documents, "PART_BYTES", part_bytes)
    monkeypatch.setattr(work, "SMALLEST_PIECE", 300)
    texts = {"long": ["".join(map(story, range(10, 20)))], "few": [story(2), story(3)], "again": [story(2), story(4)]}
    for name, found in texts.items():
        (tmp_path / name).mkdir()
        for number, text in enumerate(found):
            (tmp_path / name / f"{number}.txt").write_text(text)
    texts["again"].pop(0)  # a copy
    sizes = {name: len("".join(found)) for name, found in texts.items()}  # as weights: all of each is drawn
    sources = [Source(str(tmp_path / name), name, weight=float(size)) for name, size in sizes.items()]
    corpus = build_corpus(sources, tmp_path / "out", "byte", rule, mixture=Mixture())
    shares = [float(share) for share in rule.partition(":")[2].split(",")]
    for place, split in enumerate(SPLITS):
        found = set(corpus.documents(split) if split in corpus.manifest.splits else ())
        assert bool(found) == (shares[place] > 0)
        for whole in ("".join(text) for text in texts.values()):
            start, stop = int(len(whole) * sum(shares[:place])), int(len(whole) * sum(shares[: place + 1]))
            own = {text for text in found if text in whole[start:stop]}
            assert bool(own) == (start < stop)
            found -= own
        assert not found, "nothing is from elsewhere"
