"""GPT-2's encoding on real files, beside tiktoken's own reading of GPT-2's files. Needs SCRATCHLAB_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.pretrained import open_tokenizer

DATA = os.environ.get("SCRATCHLAB_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="SCRATCHLAB_DATA names no folder with gpt2_bpe and texts in it")

HARD = [
    "".join(map(chr, range(0x20))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 café e\u0301 \u202eright to left\u202c \ufeff \u200b",
    "a\u00a0b\u2003c\u3000d \u2028 \u2029 \x85 \n \t\n\n   \n",
    "it's I'LL we've 'S 's'Re <|endoftext|> don't 12345 ١٢٣ ⅷ ²",
    b"caf\xe9 \xff\xfe \xe2\x82 \xf0\x9f\x98 \xc0\x80 \xed\xa0\x80 end".decode(errors="replace"),
    "한국어 中文没有空格的句子。日本語 ไทย हिन्दी العربية",
]


@pytest.fixture(scope="module")
def tiktoken_gpt2():
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    folder = Path(str(DATA), "gpt2_bpe")
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""  # its own gpt2's
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_are_encoded_as_tiktoken_encodes_them(text, tiktoken_gpt2):
    tokenizer = open_tokenizer(str(Path(str(DATA), "gpt2_bpe")))
    assert tokenizer
    assert tokenizer.encode(text).tolist() == tiktoken_gpt2.encode_ordinary(text)


def test_every_real_file_is_encoded_as_tiktoken_encodes_it(tiktoken_gpt2, tmp_path):
    """The whole build: each file is one document, of the bytes that it has, with U+FFFD where they are not UTF-8."""
    files = [path for path in sorted(Path(str(DATA)).rglob("*")) if path.is_file()]
    assert len(files) > 100
    (tmp_path / "texts").mkdir()
    for number, path in enumerate(files):
        (tmp_path / "texts" / f"{number:04}.txt").write_bytes(f"File {number}\n".encode() + path.read_bytes())
    (tmp_path / "texts" / "9999.txt").write_bytes(b"caf\xe9 noir, \xf0\x9f\x98 cut off\xff")
    built = build_corpus([str(tmp_path / "texts")], tmp_path / "out", f"{DATA}/gpt2_bpe", "contiguous:1,0,0")
    train = built.split("train")
    found = train.read(0, len(train))
    expected: list[int] = []
    for path in sorted((tmp_path / "texts").iterdir()):
        text = path.read_bytes().decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        expected += [*tiktoken_gpt2.encode_ordinary(text), 50256]
    assert np.array_equal(found, np.array(expected))
    assert built.manifest.sources[0].removed["not Unicode"].pieces == 3
