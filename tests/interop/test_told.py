"""What others read of the places on this machine."""

import pytest

from scratchlab.interop.told import told, told_recipe
from tiny import tiny_recipe


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("text.txt", "text.txt"),
        ("python-docs", "python-docs"),
        ("bpe:1024", "bpe:1024"),
        ("hellaswag:500", "hellaswag:500"),
        ("runs/first/", "first"),
        ("../home/alice/notes.txt", "notes.txt"),
        ("/home/alice/**/*.txt", "*.txt"),
        ("~/notes", "notes"),
        (r"C:\Users\alice\notes.txt", "notes.txt"),
        (r"..\alice\notes", "notes"),
        ("/", "/"),
        ("hf:me/texts?split=train&files=a/b.txt", "hf:me/texts?split=train&files=a/b.txt"),
        ("hf://datasets/me/texts@0123/a/b.txt", "hf://datasets/me/texts@0123/a/b.txt"),
        ("s3://bucket/a/*.jsonl", "s3://bucket/a/*.jsonl"),
        ("s3://bucket/a?.jsonl", "s3://bucket/a?.jsonl"),
        ("https://alice:secret@example.org/a/b.txt?X-Amz-Signature=0", "https://example.org/a/b.txt"),
        ("file:///home/alice/notes.txt", "notes.txt"),
        ("zip://a.txt::file:///home/alice/texts.zip", "zip://a.txt::texts.zip"),
        ("zip://a.txt::/home/alice/texts.zip", "zip://a.txt::texts.zip"),
    ],
)
def test_of_a_path_the_last_name_is_told(place: str, said: str) -> None:
    assert told(place) == said


def test_a_number_that_was_computed_is_written_as_people_write_it() -> None:
    said = told_recipe(tiny_recipe({"training.learning_rate": 0.1 * 0.003, "training.eps": 1e-9, "seeds.init": 2**53}))
    assert "learning_rate = 0.0003\n" in said
    assert "eps = 1e-09\n" in said
    assert f"init = {2**53}\n" in said
