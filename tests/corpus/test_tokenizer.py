"""Tokenizers: our encoders equal `tokenizers` itself on the stored file; there and back; foreign files refused."""

import functools
import json
import unicodedata
from pydoc_data.topics import topics

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer, learns_from_all_splits, train_tokenizer
from scratchlab.corpus.tokenizers import encoders
from scratchlab.corpus.tokenizers.merges import CHARACTER_OF, follow_ranks, halves
from scratchlab.corpus.tokenizers.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from scratchlab.errors import CorpusError, UsageError

SAMPLES = [
    "it's WE'LL they're",
    "naïve e\u0301 \u200d\u202e 赵夫人 Ελλάς",
    "👩🏽‍🚀🏳️‍🌈",
    "lone\rCR\r\nCRLF\n\n\n",
    "\t  tabs   and   runs \u00a0\u3000 of space  ",
    "\0\x01\x7f\u0085\u2028",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext",
    "3.14159 ½ Ⅷ ٣",
    "x" * 300,
    " " * 50 + "x",
]
texts = st.lists(
    st.one_of(st.text(), st.sampled_from(SAMPLES), st.sampled_from([text[:1000] for text in topics.values()]))
).map("".join)
SPECS = ["char", "byte", "bpe:1000"]


@functools.cache
def trained(spec: str, end_of_text: bool = True) -> Tokenizer:
    english = [text[:4000] for text in topics.values()]
    return train_tokenizer(spec, [*english, *SAMPLES], end_of_text=end_of_text)


@functools.cache
def reference(spec: str) -> Reference:
    """`tokenizers` on the stored file, told to read `<|endoftext|>` in a text as the letters that it is."""
    stored = Reference.from_str(trained(spec).to_json())
    stored.encode_special_tokens = True
    return stored


def known(spec: str, text: str) -> str:
    """The part of `text` that the tokenizer can encode: all of it, but for characters."""
    return "".join(c for c in text if reference("char").token_to_id(c) is not None) if spec == "char" else text


@pytest.mark.parametrize("spec", SPECS)
@given(texts)
@settings(max_examples=60)
def test_encoding_equals_that_of_tokenizers_and_decoding_gives_the_text_back(spec, text):
    tokenizer = trained(spec)
    text = known(spec, text)
    ids = tokenizer.encode(text)
    assert ids.tolist() == reference(spec).encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()


@pytest.mark.parametrize("spec", SPECS)
@given(st.data())
@settings(max_examples=60)
def test_any_ids_decode_as_tokenizers_decodes_them(spec, data):
    tokenizer = trained(spec)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert tokenizer.decode(ids) == reference(spec).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("spec", SPECS)
def test_the_letters_of_end_of_text_are_ordinary_text(spec):
    tokenizer = trained(spec)
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert tokenizer.end_of_text not in tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.decode(tokenizer.encode(END_OF_TEXT)) == END_OF_TEXT
    assert tokenizer.token_bytes(tokenizer.end_of_text) == b""
    assert tokenizer.decode([tokenizer.end_of_text]) == ""


@pytest.mark.parametrize("spec", SPECS)
def test_training_and_storing_give_the_same_bytes_every_time(spec, tmp_path):
    tokenizer = trained(spec)
    again = train_tokenizer(spec, [*(text[:4000] for text in topics.values()), *SAMPLES])
    assert again.to_json() == tokenizer.to_json()
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.sha256, loaded.kind, loaded.vocab_size) == (tokenizer.sha256, tokenizer.kind, tokenizer.vocab_size)


# Special tokens.

CHAT = ("<|user|>", "<|assistant|>")


@pytest.mark.parametrize("spec", [*SPECS, "bins:3", "integers"])
def test_special_tokens_come_last_and_no_text_has_one(spec):
    texts = ["1 2 3"] if spec in ("bins:3", "integers") else [*topics.values()][:20]
    plain, tokenizer = (train_tokenizer(spec, texts, specials=names) for names in ((), CHAT))
    assert tokenizer.vocab_size == (1000 if spec == "bpe:1000" else plain.vocab_size + 2)
    assert [*tokenizer.specials.items()] == [
        (name, tokenizer.vocab_size - 3 + place) for place, name in enumerate((END_OF_TEXT, *CHAT))
    ]
    assert tokenizer.end_of_text == tokenizer.specials[END_OF_TEXT]
    assert [tokenizer.token_bytes(token) for token in tokenizer.specials.values()] == [b""] * 3
    added = plain.with_specials(CHAT)
    if spec != "bpe:1000":  # which has two merges fewer
        assert added.to_json() == tokenizer.to_json()
    text = texts[0][:50]
    assert added.encode(text).tolist() == plain.encode(text).tolist()
    assert tokenizer.decode([*tokenizer.specials.values(), *tokenizer.encode(text)]) == plain.decode(plain.encode(text))
    if spec in ("byte", "bpe:1000"):
        text = "a<|user|>b<|assistant|>"
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_others_see_the_special_tokens():
    stored = Reference.from_str(train_tokenizer("bpe:300", [*topics.values()][:9], specials=CHAT).to_json())
    assert stored.encode("<|user|>", add_special_tokens=False).ids == [298]
    assert all(token.special for token in stored.get_added_tokens_decoder().values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["<|a|>", "<|a|>"], r"<\|a\|>: each can be named once only"),
        ([END_OF_TEXT], r"<\|endoftext\|>: each can be named once only"),
        ([""], "'': expected a name that can be seen"),
        ([" "], "' ': expected a name"),
        (["a\n"], r"'a\\n': expected a name"),
        (["\ud800"], "expected a name"),
        (["e"], "'e' is an ordinary symbol of this tokenizer already"),
    ],
)
def test_mistaken_names_of_special_tokens_are_refused(names, message):
    for spec in SPECS:
        with pytest.raises(UsageError, match=message):
            train_tokenizer(spec, ["the letters", *topics.values()], specials=names)


def test_words_of_bpe_are_no_names_of_special_tokens():
    tokenizer = train_tokenizer("bpe:258", ["ΩΩ ΩΩ"])
    for name in ("Ω", "Î©"):  # the symbol, and the symbol as the file writes it
        with pytest.raises(UsageError, match="is an ordinary symbol"):
            tokenizer.with_specials([name])
    with pytest.raises(UsageError, match=r"'<.user.>' is a special token of this tokenizer already"):
        tokenizer.with_specials(["<|user|>"]).with_specials(["<|user|>"])


def test_special_tokens_count_as_symbols_of_bpe():
    with pytest.raises(UsageError, match="3 special tokens and 256 bytes are more"):
        train_tokenizer("bpe:258", ["text"], specials=CHAT)
    with pytest.raises(CorpusError, match=r"gives 262 symbols. Use bpe:262"):
        train_tokenizer("bpe:400", ["abcd abcd"], specials=CHAT)
    assert train_tokenizer("bpe:262", ["abcd abcd"], specials=CHAT).vocab_size == 262


# White space without end.


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K_PATTERN, O200K_PATTERN], ids=["gpt2", "cl100k", "o200k"])
@given(st.lists(st.sampled_from([" " * 9, "\n" * 7, "\t\t", "\u3000" * 5, "\r\n", "\x1c", "a", "!", "/", "'ll", "1"])))
@settings(max_examples=40)
def test_long_runs_of_white_space_are_encoded_like_short_ones(pattern, parts):
    symbols = [bytes([byte]) for byte in range(256)] + [b"  ", b"    ", b"\n\n", b"!\n", b"\n ", b" a", b"\t\t", b" !"]
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        whole = encoders.bpe_encoder(symbols, pattern)(text)
        patch.setattr(encoders, "LONG_RUN", 4)
        assert encoders.bpe_encoder(symbols, pattern)(text).tolist() == whole.tolist()


BLANKS = [
    chr(point) for point in range(0x110000) if chr(point).isspace() or unicodedata.category(chr(point))[0] in "ZC"
]
BLANKS = [character for character in BLANKS if unicodedata.category(character) not in ("Cs", "Co", "Cn")]


@pytest.mark.parametrize("character", [*BLANKS, "\u200b", "\ufeff", "é", "\u1681", "\u2010", "\u3001"], ids=ascii)
def test_white_space_is_what_the_pattern_takes_for_it(character):
    quick, careful = _both_ways()
    for around in ("", "b", " ", "\n"):
        for text in (f"a{around}{character * times}{end}" for times in (1, 2, 3) for end in ("", around, "b")):
            assert quick(text).tolist() == careful(text).tolist()


@given(st.lists(st.sampled_from([*" \n\t\r\u3000\xa0\u2003\x1c", "  ", "word", "it's", "!", "é", "12", "。"])))
@settings(max_examples=200)
def test_text_is_cut_without_looking_ahead_as_with_it(parts):
    quick, careful = _both_ways()
    text = "".join(parts)
    assert quick(text).tolist() == careful(text).tolist()


@functools.cache
def _both_ways():
    """GPT-2's pattern cut at runs of white space however close they are, and tiktoken alone."""
    symbols = [bytes([byte]) for byte in range(256)] + [b" w", b" \n", b"or", b" 1", b" !"]
    for character in BLANKS:  # two of it are a symbol, so that a cut between them shows
        data = character.encode()
        symbols += [data[:size] for size in range(2, len(data) + 1)] + [2 * data]
    symbols = list(dict.fromkeys(symbols))
    quick = encoders.bpe_encoder(symbols, GPT2_PATTERN)
    ranks = {symbol: token for token, symbol in enumerate(symbols)}
    alone = tiktoken.Encoding("alone", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def at_every_run(text):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoders, "BYTES_PER_RUN", 0)
            return quick(text)

    return at_every_run, lambda text: np.array(alone.encode_ordinary(text))


@pytest.mark.parametrize("run", [" ", "\n \t"])
def test_runs_of_a_million_are_encoded(run):
    """Where tiktoken by itself panics."""
    tokenizer, text = trained("bpe:1000"), "a" + run * (1_100_000 // len(run)) + " b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    short = tokenizer.encode("a" + run * 1024 + " b")
    assert ids[:60].tolist() == short[:60].tolist()


def test_long_runs_of_anything_else_take_no_longer():
    tokenizer = trained("bpe:1000")
    for letters in ("x", "!", "1", "é", "ab"):
        text = letters * 100_000
        assert tokenizer.decode(tokenizer.encode(text)) == text


# Characters, bytes, BPE.


def test_characters_are_numbered_by_code_point_as_in_nanogpt():
    tokenizer = train_tokenizer("char", ["hello", " world\n"], end_of_text=False)
    assert tokenizer.vocab_size == 9
    assert tokenizer.end_of_text is None
    assert tokenizer.decode(range(9)) == "\n dehlorw"
    assert tokenizer.encode("low").tolist() == [5, 6, 8]


def test_bytes_are_their_own_ids():
    tokenizer = train_tokenizer("byte", [], end_of_text=False)
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode("é\n").tolist() == [0xC3, 0xA9, 0x0A]


def test_bpe_has_exactly_as_many_symbols_as_asked_or_says_how_many_it_can():
    assert trained("bpe:1000").vocab_size == 1000
    assert train_tokenizer("bpe:257", ["hello"]).vocab_size == 257
    with pytest.raises(CorpusError, match=r"tale.txt is too small for bpe:400: .* gives 260 symbols. Use bpe:260"):
        train_tokenizer("bpe:400", ["abcd abcd"], origin="tale.txt")
    assert train_tokenizer("bpe:260", ["abcd abcd"]).vocab_size == 260


def test_ids_are_stored_in_the_narrowest_type():
    assert trained("bpe:1000").encode("hello").dtype == np.uint16
    wide = {chr(0x10000 + i): i for i in range(2**16 + 1)}
    stored = json.loads(trained("char", end_of_text=False).to_json())
    stored["model"]["vocab"] = wide
    tokenizer = Tokenizer.from_json(json.dumps(stored))
    assert tokenizer.encode(chr(0x20000)).dtype == np.uint32
    assert tokenizer.encode(chr(0x20000)).tolist() == [2**16]


def test_an_unknown_character_is_named_with_its_position():
    tokenizer = train_tokenizer("char", ["abc"])
    for unknown in ("z", "B", "é", "\U0001f600"):
        with pytest.raises(CorpusError, match=rf"U\+{ord(unknown):04X}\) at position 2 is not among the 3 characters"):
            tokenizer.encode(f"ab{unknown}c")


@pytest.mark.parametrize("spec", SPECS)
def test_half_a_surrogate_pair_is_refused(spec):
    with pytest.raises(CorpusError, match=r"U\+D800\) at position 1"):
        trained(spec).encode("a\ud800b")


@pytest.mark.parametrize("token", [-1, 1000])
def test_ids_outside_the_vocabulary_are_refused(token):
    with pytest.raises(CorpusError, match=f"token id {token} is outside .* 1000 symbols"):
        trained("bpe:1000").decode([5, token])


WRONG = ["word", "bpe", "bpe:", "bpe:256", "bpe:-5", "bpe:²", "char:5", "BYTE", "", "bpe:99999999999"]


@pytest.mark.parametrize("spec", [*WRONG, "bins", "bins:", "bins:1", "integers:5", "integers:"])
def test_mistaken_specs_are_refused(spec):
    with pytest.raises(UsageError, match=r"expected char, byte, bpe:N .* integers or bins:N"):
        train_tokenizer(spec, ["text"])


def test_no_text_has_no_characters():
    with pytest.raises(CorpusError, match=r"empty.txt is empty"):
        train_tokenizer("char", [], origin="empty.txt")


def other_pattern(data):
    data["pre_tokenizer"] = {"type": "Blanks"}


def other_special(data):
    data["added_tokens"].append({"id": 1000, "content": "<pad>"})


def missing_byte(data):
    data["model"]["vocab"]["zz"] = data["model"]["vocab"].pop("a")


@pytest.mark.parametrize("spoil", [other_pattern, other_special, missing_byte])
def test_a_tokenizer_that_is_damaged_is_refused_and_named(spoil, tmp_path):
    data = json.loads(trained("bpe:1000").to_json())
    spoil(data)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CorpusError, match=r"tokenizer.json: this is not a tokenizer.json that `tokenizers` und"):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"model": null}', b"{}"])
def test_a_file_that_is_no_tokenizer_is_refused_and_named(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def stretch(data):
    """What a file may say otherwise without a token changing."""
    data["model"]["vocab"] = dict(reversed([*data["model"]["vocab"].items(), (END_OF_TEXT, 999)]))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def test_files_that_differ_in_bytes_alone_mean_the_same():
    data = json.loads(trained("bpe:1000").to_json())
    stretch(data)
    other = Tokenizer.from_json(json.dumps(data, indent=1))
    assert other.sha256 != trained("bpe:1000").sha256
    assert other.meaning == trained("bpe:1000").meaning


def test_what_gives_other_ids_means_something_else():
    char = json.loads(trained("char").to_json())
    vocab = char["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    others = [
        *(trained(spec, end_of_text=end) for spec in ("char", "byte") for end in (True, False)),
        train_tokenizer("bpe:257", []),
        trained("bpe:1000"),
        train_tokenizer("bpe:1000", [text[:4000] for text in topics.values()][:40]),
        Tokenizer.from_json(json.dumps(char)),
    ]
    assert len({tokenizer.meaning for tokenizer in others}) == len(others)


def test_merges_as_older_files_write_them_are_understood():
    data = json.loads(trained("bpe:1000").to_json())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    del data["pre_tokenizer"]["use_regex"]
    old = Tokenizer.from_json(json.dumps(data))
    assert old.encode(SAMPLES[0]).tolist() == trained("bpe:1000").encode(SAMPLES[0]).tolist()


def test_gpt2s_file_without_the_name_of_its_model_is_understood():
    data = json.loads(trained("bpe:1000").to_json())
    del data["model"]["type"]
    assert Tokenizer.from_json(json.dumps(data)).meaning == trained("bpe:1000").meaning


def test_what_could_not_be_encoded_without_is_learned_from_all_splits():
    assert [kind for kind in ("char", "byte", "bpe", "integers", "bins") if learns_from_all_splits(kind)] == [
        "char",
        "integers",
    ]


# Merges that are listed, and those that ranks tell.


@st.composite
def vocabularies(draw):
    """Merges of a few letters, many of them not those of BPE."""
    symbols, merges = [*draw(st.sampled_from(["ab", "abc"]))], []
    for left, right in draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=9)):
        pair = symbols[left % len(symbols)], symbols[right % len(symbols)]
        if "".join(pair) not in symbols:
            merges.append(pair)
            symbols.append("".join(pair))
    return merges


@given(vocabularies())
@settings(max_examples=150)
def test_merges_are_checked_as_if_they_were_found_anew(merges):
    ranks = {character: byte for byte, character in CHARACTER_OF.items()}
    ranks |= {left + right: 256 + place for place, (left, right) in enumerate(merges)}
    by_bytes = {symbol.encode("latin-1"): rank for symbol, rank in ranks.items() if symbol.isascii()}
    try:
        found = [halves((left + right).encode(), by_bytes, "here") for left, right in merges]
    except CorpusError:
        found = None
    assert follow_ranks(merges, ranks) == (found == [(left.encode(), right.encode()) for left, right in merges])
