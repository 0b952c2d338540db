"""Building: the same bytes every time, nothing half-finished, no text on both sides, and clear refusals."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import story

from scratchlab.corpus import build
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building import work
from scratchlab.corpus.progress import Progress
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import CorpusError, ScratchlabError, UnfinishedError, UnreachableError, UsageError

Write = Callable[[str, str | bytes], str]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(tmp_path: Path, *sources: str | Source, **arguments: Any) -> str:
    """The message of a build that fails and leaves nothing behind."""
    before = set(tmp_path.iterdir())
    with pytest.raises(ScratchlabError) as caught:
        build_corpus(sources, tmp_path / "refused", **arguments)
    assert set(tmp_path.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_building_twice_gives_the_same_bytes(letters, tmp_path, tokenizer, split):
    first = build_corpus([letters], tmp_path / "one", tokenizer, split)
    second = build_corpus([letters], tmp_path / "deep" / "two", tokenizer, split)
    assert contents(first.path) == contents(second.path)


def test_nothing_in_the_folder_says_where_it_was_built(letters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built = build_corpus(["letters"], "mine", "bpe:300")
    assert not any(str(tmp_path).encode() in data for data in contents(built.path).values())


def test_the_identity_depends_on_the_text_not_on_where_it_lies(write, tmp_path):
    one, two = write("a.txt", story(1)), write("elsewhere/b.txt", story(1))
    builds = [build_corpus([path], tmp_path / f"out{place}", "byte") for place, path in enumerate([one, two])]
    other = build_corpus([write("c.txt", story(2))], tmp_path / "other", "byte")
    assert builds[0].sha256 == builds[1].sha256 != other.sha256


def test_one_document_becomes_what_nanogpt_makes_of_it(write, tmp_path):
    text = "".join(map(story, range(20)))
    built = build_corpus([write("input.txt", text)], tmp_path / "out", "char", "contiguous:.9,.1,0")
    number = {character: place for place, character in enumerate(sorted(set(text)))}
    expected = np.array([number[character] for character in text])
    cut = int(len(text) * 0.9)
    train, validation = (built.split(name) for name in ("train", "validation"))
    assert built.vocab_size == len(number)
    assert built.tokenizer.end_of_text is None
    assert (train.read(0, len(train)) == expected[:cut]).all()
    assert (validation.read(0, len(validation)) == expected[cut:]).all()
    assert list(built.manifest.splits) == ["train", "validation"]
    assert built.text("train") + built.text("validation") == text
    assert not list(built.path.glob("test*"))


def test_bpe_of_one_document_has_the_symbol_but_does_not_use_it(write, tmp_path):
    built = build_corpus([write("input.txt", "".join(map(story, range(20))))], tmp_path / "out", "bpe:300")
    train = built.split("train")
    assert built.tokenizer.end_of_text == 299
    assert 299 not in train.read(0, len(train))


def test_bpe_learns_from_the_training_split_alone(write, tmp_path):
    texts = [story(number) for number in range(9)] + ["zyzzyva " * 500]
    sources = [write(f"{place}.txt", text) for place, text in enumerate(texts)]
    built = build_corpus(sources, tmp_path / "out", "bpe:300", "contiguous:.2,.8,0")
    assert "zyzzyva" in built.text("validation")
    assert not any(b"zyz" in built.tokenizer.token_bytes(token) for token in range(300))


@pytest.mark.parametrize(("documents", "rule"), [(7, "contiguous:0.9,0.05,0.05"), (8, "hash:0.9,0.05,0.05")])
def test_few_documents_are_split_by_region_and_many_by_hash(write, tmp_path, documents, rule):
    sources = [write(f"{number}.txt", story(number)) for number in range(documents)]
    assert build_corpus(sources, tmp_path / "out", "byte").manifest.split.rule == rule


def test_copies_and_blanks_are_left_out_and_counted(write, tmp_path):
    for number in range(9):
        write(f"mine/{number}.txt", story(number))
    write("mine/copy.txt", b"\xef\xbb\xbf" + story(3).replace("\n", "\r\n").encode())
    write("mine/blank.md", " \n\t\n")
    write("mine/empty.md", "")
    manifest = build_corpus([f"{tmp_path}/mine", f"{tmp_path}/mine/4.txt"], tmp_path / "out", "byte").manifest
    [folder, file] = manifest.sources
    assert (folder.documents, folder.removed["duplicate"].documents, folder.removed["blank"].documents) == (9, 1, 2)
    assert (file.documents, file.removed["duplicate"].documents, file.bytes) == (0, 1, 0)
    [example] = folder.removed["duplicate"].examples
    assert example.document == f"{tmp_path}/mine/copy.txt"
    assert story(3).startswith(example.text[:50])
    assert folder.bytes == sum(split.bytes for split in manifest.splits.values())


def test_an_unpublished_post_is_counted_once(write, tmp_path):
    write("blog/_posts/2024-01-31-hello.md", f"---\ntitle: Hello\n---\n{story(1) * 9}\n")
    write("blog/_posts/2024-02-01-later.md", "---\npublished: false\n---\nNot *yet*.   \n")
    site = Source(str(tmp_path / "blog"), "blog", blog=True)
    [source] = build_corpus([site], tmp_path / "out", "byte", filters=("spaces", "short:200")).manifest.sources
    counts = {kind: (removed.documents, removed.pieces) for kind, removed in source.removed.items()}
    assert counts == {"front matter": (0, 1), "unpublished": (1, 0)}
    assert source.removed["unpublished"].examples[0].text == "Later\n\nNot yet."


@given(st.lists(st.text(st.sampled_from("ab \n"), min_size=30, max_size=34), min_size=8, max_size=30))
@settings(max_examples=25)
def test_no_text_is_in_two_splits(texts):
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine").mkdir()
        for number, text in enumerate(["a" * 64, "b" * 64, "c" * 64, *texts, *texts[::2]]):
            (folder / "mine" / f"{number:02d}.txt").write_text(text)
        built = build_corpus([f"{folder}/mine"], folder / "out", "byte", "hash:.5,.25,.25")
        found = [text for split in built.manifest.splits for text in built.documents(split)]
    assert len(found) == len(set(found))
    assert set(found) == {text for text in ["a" * 64, "b" * 64, "c" * 64, *texts] if text.strip()}


def test_a_moved_document_is_named_in_the_manifest(write, tmp_path):
    sources = [write(f"{number}.txt", story(number)) for number in range(3)]
    built = build_corpus(sources, tmp_path / "out", "byte", "hash:.98,.01,.01")
    assert {move.to for move in built.manifest.split.moved} == {"validation", "test"}
    assert {move.document for move in built.manifest.split.moved} < set(sources)
    assert all(len(list(built.documents(name))) == 1 for name in ("train", "validation", "test"))


def test_an_existing_folder_is_left_as_it_is(write, letters, tmp_path):
    write("mine/precious.txt", "do not lose me")
    with pytest.raises(CorpusError, match="mine exists already and was left as it is"):
        build_corpus([letters], tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"precious.txt": b"do not lose me"}


def test_text_that_is_too_small_names_the_file_and_the_split(write, tmp_path):
    path = write("haiku.txt", "An old silent pond")
    message = refusal(tmp_path, path, tokenizer="byte", split="contiguous:.9,.1,0")
    assert f"{path} is too small: split contiguous:0.9,0.1,0.0 gives 16 tokens to train on" in message
    assert f"the training text of {path} is too small for bpe:4096" in refusal(tmp_path, path, tokenizer="bpe:4096")
    path = write("page.txt", "a" * 100)
    message = refusal(tmp_path, path, tokenizer="byte", split="contiguous:.9999,.00005,.00005")
    assert f"{path} is too small: split contiguous:0.9999,5e-05,5e-05 leaves no text for validation." in message


def test_blank_text_names_the_file(write, tmp_path):
    path = write("blank.txt", " \n")
    assert f"no text to learn from: {path} has no character but white space" in refusal(tmp_path, path)


@pytest.mark.parametrize(
    ("texts", "filters", "message"),
    [
        (
            ["a b", "c d e", "a b c d e f"],
            "short:4 short:99",
            "removed all 3 documents of {}. short:99 removed the most, 2. Leave it out, or give it another number.",
        ),
        (["a b", " "], "long:2", "removed 1 of 2 documents of {}, and the others are blank or unpublished. long:2"),
        (["a b"], "unicode short:9", "removed the only document of {}. short:9 removed the most, 1. Leave it out, or"),
        (["http://a.b/c/d", "m@a.org"], "emails urls", "left nothing but white space of all 2 documents of {}. urls"),
        (["http://a.b/c"], "urls", "of the only document of {}. urls removed the most, 12 characters. Leave it out."),
        ([" ", "\n"], "unicode", "{} has no character but white space."),
    ],
)
def test_filters_that_leave_nothing_are_named(write, tmp_path, texts, filters, message):
    for number, text in enumerate(texts):
        write(f"texts/{number}.txt", text)
    folder = f"{tmp_path}/texts"
    assert message.format(folder) in refusal(tmp_path, folder, filters=tuple(filters.split()))


def test_posts_that_nobody_can_read_are_said_to_be_unpublished(write, tmp_path):
    write("blog/_posts/2024-02-01-later.md", "---\npublished: false\n---\nNot yet.\n")
    site = Source(str(tmp_path / "blog"), "blog", blog=True)
    message = refusal(tmp_path, site)
    assert "blog has no character but white space, besides what is unpublished (1 of 1)." in message


def test_an_unreadable_file_among_good_ones_is_named(write, letters, tmp_path):
    path = write("bad.txt", b"\xff\xff")
    assert path in refusal(tmp_path, letters, path)


@pytest.mark.parametrize("tokenizer", ["integers", "bins:4"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [("1 2 x 4", "'x' at position 4 is not a"), ("1,, 2", "a number is missing between the commas at position 1.")],
)
def test_what_is_no_number_is_named_with_its_document(write, tmp_path, tokenizer, text, problem):
    for number in range(9):
        write(f"numbers/{number}.txt", f"{number} 1 2 3 " * 9)
    path = write("numbers/4a.txt", text)
    message = refusal(tmp_path, f"{tmp_path}/numbers", tokenizer=tokenizer, split="contiguous:1,0,0")
    assert message.startswith(f"{path}: {problem}")


@pytest.mark.parametrize("tokenizer", ["integers", "bins:4"])
def test_positions_count_from_where_a_region_begins(write, tmp_path, tokenizer):
    path = write("numbers.txt", "1 2 3 4 " * 50 + "x " + "5 " * 49)
    message = refusal(tmp_path, path, tokenizer=tokenizer, split="contiguous:.5,.5,0")
    begins = 251  # half of the text is 250 characters, and a number ends at 251
    assert message.startswith(f"{path}, from character {begins} on: 'x' at position {400 - begins} is not a")


def test_too_many_integers_are_those_of_all_documents(write, tmp_path, monkeypatch):
    monkeypatch.setattr("scratchlab.corpus.numbers.MOST_INTEGERS", 20)
    for number in range(9):
        write(f"numbers/{number}.txt", " ".join(map(str, range(number, number + 20))))
    message = refusal(tmp_path, f"{tmp_path}/numbers", tokenizer="integers")
    assert message.startswith(f"the training text of {tmp_path}/numbers has more than 20 different whole numbers")


@pytest.mark.parametrize("arguments", [{"tokenizer": "word"}, {"split": "random"}])
def test_mistaken_arguments_are_heard_of_before_anything_is_read(tmp_path, arguments):
    with pytest.raises(UsageError):
        build_corpus([f"{tmp_path}/does-not-exist"], tmp_path / "out", **arguments)


@pytest.mark.parametrize("sources", [[], "letters.txt"])
def test_sources_must_be_a_list_of_at_least_one(sources, tmp_path):
    with pytest.raises(UsageError, match=r"sources .*: expected a list of files"):
        build_corpus(sources, tmp_path / "out")


@pytest.mark.parametrize("after", ["reading", "training the tokenizer"])
@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_source_that_changes_between_two_readings_is_noticed(letters, tmp_path, after, tokenizer, change):
    def meddle(progress: Progress) -> None:
        if progress.stage == after and change == "edited":
            Path(letters, "13.md").write_text("edited")
        elif progress.stage == after:
            Path(letters, "13.md").unlink(missing_ok=True)

    message = {"edited": r"text changed while .*13\.md is not what it was", "removed": r"13\.md is no longer there"}
    with pytest.raises(CorpusError, match=message[change]):
        build_corpus([letters], tmp_path / "out", tokenizer, "hash", meddle)
    assert {path.name for path in tmp_path.iterdir()} == {"letters"}


def test_what_is_added_between_two_readings_is_left_for_the_next_build(letters, tmp_path):
    def meddle(progress: Progress) -> None:
        Path(letters, "13a.md").write_text("new")

    before = build_corpus([letters], tmp_path / "before")
    assert build_corpus([letters], tmp_path / "out", report=meddle).sha256 == before.sha256


def test_progress_is_told_in_bytes_documents_and_tokens(letters, tmp_path):
    told: list[Progress] = []
    built = build_corpus([letters], tmp_path / "out", "bpe:300", report=told.append)
    total = sum(path.stat().st_size for path in Path(letters).iterdir())
    tokens = sum(split.tokens for split in built.manifest.splits.values())
    assert told[:7] == [
        Progress("reading", total, total, 30, 0),
        Progress("looking for duplicates", 0, 0, 0, 0),
        Progress("reading for the tokenizer", 0, total, 30, 0),
        Progress("reading for the tokenizer", total, total, 30, 0),
        Progress("training the tokenizer", 0, 0, 30, 0),
        Progress("encoding", total, total, 30, tokens),
        Progress("joining", 0, 0, 30, 0),
    ]
    assert {progress.stage for progress in told[7:]} == {"comparing with the test text"}
    assert told[-1].done == told[-1].total


@pytest.mark.parametrize("tokenizer", ["char", "bpe:260", "bins:4", "integers"])
def test_reading_for_the_tokenizer_is_told_piece_by_piece(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(work, "PIECE_SPANS", 1)
    (tmp_path / "numbers").mkdir()
    for place, size in enumerate([900, 300, 600]):
        (tmp_path / "numbers" / f"{place}.txt").write_text(f"{place} 12 7 " * (size // 7))
    told: list[Progress] = []
    build_corpus([str(tmp_path / "numbers")], tmp_path / "out", tokenizer, "contiguous:1,0,0", told.append)
    done = [(one.done, one.total) for one in told if one.stage == "reading for the tokenizer"]
    first, second, third = (path.stat().st_size for path in sorted((tmp_path / "numbers").iterdir()))
    total = first + second + third
    assert done == [(0, total), (first, total), (first + second, total), (total, total)]


def test_the_search_for_near_duplicates_is_told(letters, tmp_path):
    (tmp_path / "again").mkdir()
    for path in Path(letters).iterdir():
        (tmp_path / "again" / path.name).write_text(path.read_text() + " again")
    told: list[Progress] = []
    sources = [letters, str(tmp_path / "again")]
    build_corpus(sources, tmp_path / "out", "byte", near_duplicates=0.8, report=told.append)
    total = told[0].total
    stages = {one.stage: (one.done, one.total) for one in told}
    for stage in ("reading signatures", "sorting signatures", "comparing near duplicates"):
        assert stages[stage] == (total, total)


def test_a_symbol_that_is_text_stays_text(write, tmp_path):
    sources = [write(f"{number}.txt", f"{story(number)}<|endoftext|>{story(number + 50)}") for number in range(9)]
    built = build_corpus(sources, tmp_path / "out", "bpe:300", "contiguous:1,0,0")
    train = built.split("train")
    assert int((train.read(0, len(train)) == built.tokenizer.end_of_text).sum()) == 9
    assert built.text("train").count("<|endoftext|>") == 9


BUILD_AND_DIE = """
import os, signal, sys
from scratchlab.corpus import build
from scratchlab.corpus.building import work
import tokenizers, tiktoken

events, last = 0, int(sys.argv[3])

def count(event, arguments):
    global events
    events += 1
    if events == last:
        os.kill(os.getpid(), signal.SIGKILL)

work.SMALLEST_PIECE = 4_000
build.WORTH_PROCESSES = int(sys.argv[4])
if __name__ == "__main__":
    sys.addaudithook(count)
    build.build_corpus([sys.argv[1]], sys.argv[2], "byte", workers_at_once=2)
    print(events)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_build_that_is_killed_goes_on_to_the_same_bytes(letters, tmp_path, processes):
    """A real process dies at some of the moments that Python's audit hooks report (opening, renaming, ...)."""
    script = tmp_path / "build_and_die.py"
    script.write_text(BUILD_AND_DIE)

    def run(name: str, moment: int) -> tuple[int, str]:
        worth = 0 if processes == 2 else 10**9
        command = [sys.executable, str(script), letters, str(tmp_path / name), str(moment), str(worth)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout

    _, whole = run("whole", 0)
    expected = contents(tmp_path / "whole")
    random = np.random.default_rng()
    # How many there are depends a little on how processes come to take turns: not at the very end.
    assert run("killed", int(random.integers(1, int(whole) * 9 // 10)))[0] == -9
    for folder in tmp_path.glob(".killed.partial-*"):
        with pytest.raises(CorpusError, match="interrupted build"):
            open_corpus(folder)
    for moment in [int(random.integers(1, int(whole))), 0]:  # going on takes fewer events: it may come to its end
        if not (tmp_path / "killed").exists():
            assert run("killed", moment)[0] in (0, -9)
    assert contents(tmp_path / "killed") == expected
    assert not list(tmp_path.glob(".*")), "nothing of the interrupted builds is left"


def leave_unfinished(letters: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that a full disk stops after the sources were read."""

    def full_disk(*_: object, **__: object) -> None:
        raise UnfinishedError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(build, "make_plan", full_disk)
        with pytest.raises(UnfinishedError):
            build_corpus([letters], out, "byte")


def test_a_build_that_goes_on_reads_no_piece_again_that_was_done(letters, tmp_path, monkeypatch):
    leave_unfinished(letters, tmp_path / "out", monkeypatch)
    read = list[str]()
    monkeypatch.setattr(build.survey, "survey_piece", lambda task: read.append(task))
    assert list(build_corpus([letters], tmp_path / "out", "byte").documents("train"))
    assert not read


def test_what_a_power_cut_left_empty_is_made_again(letters, tmp_path, monkeypatch):
    leave_unfinished(letters, tmp_path / "out", monkeypatch)
    [records] = tmp_path.glob(".out.partial-*/work/survey/00000.records")
    records.write_bytes(bytes(records.stat().st_size))
    built = build_corpus([letters], tmp_path / "out", "byte")
    assert built.sha256 == build_corpus([letters], tmp_path / "whole", "byte").sha256


FILL_THE_DISK = """
import resource, signal, sys
from scratchlab.corpus.build import build_corpus
from scratchlab.errors import ScratchlabError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    build_corpus([sys.argv[1]], sys.argv[2], "byte")
except ScratchlabError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("room", [500, 3_000, 12_000])
def test_a_full_disk_is_said_and_the_build_goes_on_when_there_is_room(letters, tmp_path, room):
    command = [sys.executable, "-c", FILL_THE_DISK, letters, str(tmp_path / "out"), str(room)]
    failed = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("UnfinishedError: ")
    assert "could not be written to" in failed.stderr
    assert "run the same command again" in failed.stderr
    assert not (tmp_path / "out").exists()
    built = build_corpus([letters], tmp_path / "out", "byte")
    assert built.sha256 == build_corpus([letters], tmp_path / "other", "byte").sha256
    assert {path.name for path in tmp_path.iterdir()} == {"letters", "out", "other"}


@pytest.mark.parametrize("code", ["EIO", "EBADF"])
def test_a_disk_that_fails_keeps_the_work_and_a_fault_of_ours_is_not_hidden(letters, tmp_path, monkeypatch, code):
    survey_piece = build.survey.survey_piece

    def failing(task: Any) -> Any:
        if task.piece.number == 1:
            raise OSError(getattr(errno, code), "no file is named")
        return survey_piece(task)

    monkeypatch.setattr(work, "SMALLEST_PIECE", 4_000)
    with monkeypatch.context() as patch:
        patch.setattr(build.survey, "survey_piece", failing)
        kind, message = (UnfinishedError, "run the same command again") if code == "EIO" else (OSError, "no file is")
        with pytest.raises(kind, match=message):
            build_corpus([letters], tmp_path / "out", "byte")
    assert [path.name for path in tmp_path.glob(".out.partial-*/work/survey/*.json")] == ["00000.json"]
    assert build_corpus([letters], tmp_path / "out", "byte").split("train")


UNREADABLE = Path("/proc/self/mem")  # reading its first byte is an input/output error


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no file of this system cannot be read")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_source_on_a_disk_that_fails_is_named_and_the_work_kept(letters, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(build, "WORTH_PROCESSES", 0)
    (tmp_path / "bad.txt").symlink_to(UNREADABLE)
    with pytest.raises(UnreachableError, match=r"bad\.txt could not be read: Input/output error\. Nothing done"):
        build_corpus([letters, f"{tmp_path}/bad.txt"], tmp_path / "out", "byte", workers_at_once=processes)
    assert len(list(tmp_path.glob(".out.partial-*"))) == 1


def test_what_a_kill_left_of_the_tokenizers_file_goes(tmp_path):
    (tmp_path / ".tokenizer.json.abc").write_text("{")
    build.store_tokenizer(tmp_path, train_tokenizer("byte", []))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_another_build_into_the_same_place_begins_anew(letters, tmp_path, monkeypatch):
    leave_unfinished(letters, tmp_path / "out", monkeypatch)
    assert list(tmp_path.glob(".out.partial-*"))
    build_corpus([letters], tmp_path / "out", "char")
    assert {path.name for path in tmp_path.iterdir()} == {"letters", "out"}


def test_the_manifest_is_complete(letters, tmp_path):
    built = build_corpus([letters], tmp_path / "out", "bpe:300")
    manifest = json.loads((built.path / "manifest.json").read_text())
    assert manifest["sha256"] == built.sha256
    assert {
        file["name"] for split in manifest["splits"].values() for file in [*split["shards"], split["document_table"]]
    } == {path.name for path in built.path.glob("*.bin")}
    assert manifest["tokenizer"] == {
        "spec": "bpe:300",
        "kind": "bpe",
        "vocab_size": 300,
        "end_of_text": 299,
        "dtype": "uint16",
        "file": {
            "name": "tokenizer.json",
            "size": (built.path / "tokenizer.json").stat().st_size,
            "sha256": built.tokenizer.sha256,
        },
    }
