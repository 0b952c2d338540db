"""Tokenizers that others made: the ids are those of `tokenizers` itself, and no text holds a special token."""

import functools
import json
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Stored

from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.corpus.tokenizers.foreign import Foreign
from scratchlab.corpus.tokenizers.patterns import CL100K_PATTERN, O200K_PATTERN
from scratchlab.corpus.vocabulary import measure
from scratchlab.errors import CorpusError, UsageError
from scratchlab.generation.text import stream_text

ENGLISH = [text[:2000] for text in topics.values()][:16]
LETTERS = [chr(number) for number in range(33, 127)]
SPECIALS = {
    "wordpiece": ["[UNK]", "[CLS]", "[SEP]"],
    "unigram": ["<unk>", "<pad>", "</s>"],
    "sentencepiece": ["<unk>", "<s>", "</s>"],
    "words": ["[UNK]", "</s>"],
    "nfc": ["<|im_start|>", "<|im_end|>"],
    "suffix": ["<unk>"],
}


def add(stored: Stored, names: list[str]) -> Stored:
    stored.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return stored


def wordpiece() -> Stored:
    """BERT's, with what would be done to a training example."""
    stored = Stored(models.WordPiece(unk_token="[UNK]"))
    stored.normalizer, stored.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    stored.decoder = decoders.WordPiece()
    names = SPECIALS["wordpiece"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=LETTERS, show_progress=False
    )
    stored.train_from_iterator(ENGLISH, trainer)
    stored.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    stored.enable_truncation(5)
    stored.enable_padding(length=64)
    return stored


def unigram() -> Stored:
    """T5's and XLM-R's."""
    stored = Stored(models.Unigram())
    stored.pre_tokenizer, stored.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIALS["unigram"], unk_token="<unk>", show_progress=False
    )
    stored.train_from_iterator(ENGLISH, trainer)
    return stored


def sentencepiece() -> Stored:
    """Llama 2's: BPE over words that begin with a mark, and bytes for what it lacks."""
    learned = Stored(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    symbols = [*SPECIALS["sentencepiece"], *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {symbol: number for number, symbol in enumerate(symbols)}
    merges = [(left, right) for left, right in model["merges"]]
    stored = Stored(models.BPE(vocab, merges, dropout=0.5, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    stored.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    stored.decoder = decoders.Sequence(steps)
    return add(stored, SPECIALS["sentencepiece"])


def words() -> Stored:
    """Whole words, without a decoder, and with ids that nothing has."""
    found = sorted({word for text in ENGLISH for word in text.split()})
    stored = Stored(models.WordLevel({"[UNK]": 0, "</s>": 1, **{word: 2 * i + 5 for i, word in enumerate(found)}}))
    stored = Stored.from_str(stored.to_str().replace('"unk_token":"<unk>"', '"unk_token":"[UNK]"'))
    stored.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return add(stored, SPECIALS["words"])


def byte_level(pattern: str, names: list[str], normalizer: Any = None) -> Stored:
    """Those of GPT-4, Llama 3 and Qwen."""
    stored = Stored(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    stored.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    stored.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    stored.train_from_iterator([*ENGLISH, "!\n\n 'LL 123456 Été été\r\n \n" * 99], trainer)
    if normalizer is not None:
        stored.normalizer = normalizer
    return add(stored, names)


def nfc() -> Stored:
    """Qwen's: composes characters, and has an added token that is ordinary text."""
    stored = byte_level(r"\p{N}|[^\s\p{N}]+|\s+", SPECIALS["nfc"], normalizers.NFC())
    stored.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return stored


def suffix() -> Stored:
    """GPT-1's: words end with a mark."""
    stored = Stored(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    stored.normalizer, stored.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    stored.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS["suffix"], end_of_word_suffix="</w>", show_progress=False
    )
    stored.train_from_iterator(ENGLISH, trainer)
    return stored


MADE: dict[str, Callable[[], Stored]] = {
    "wordpiece": wordpiece,
    "unigram": unigram,
    "sentencepiece": sentencepiece,
    "words": words,
    "nfc": nfc,
    "suffix": suffix,
}
EXACT = ("nfc", "sentencepiece")
"""Those whose symbols know all text."""


@functools.cache
def stored_json(name: str) -> str:
    return MADE[name]().to_str()


@functools.cache
def opened(name: str) -> Tokenizer:
    return Tokenizer.from_json(stored_json(name))


@functools.cache
def reference(name: str) -> Stored:
    """`tokenizers` on the same file, told to encode nothing but the text."""
    data = json.loads(stored_json(name))
    data |= {"truncation": None, "padding": None, "post_processor": None}
    if "dropout" in data["model"]:
        data["model"]["dropout"] = None
    return Stored.from_str(json.dumps(data))


texts = st.lists(st.one_of(st.text(), st.sampled_from(ENGLISH), st.text("the ing.,\n'é1", max_size=20))).map("".join)


@pytest.mark.parametrize("name", MADE)
@given(texts)
@settings(max_examples=20)
def test_ids_and_text_are_those_of_tokenizers(name: str, text: str) -> None:
    tokenizer = opened(name)
    assert tokenizer.kind == "other"
    expected = reference(name).encode(text, add_special_tokens=False).ids
    ids = tokenizer.encode(text)
    assert ids.tolist() == expected
    assert tokenizer.decode(ids) == reference(name).decode(expected, skip_special_tokens=True)
    if text:
        found = measure(tokenizer, [text + "."])
        assert found.bytes == len(text.encode()) + 1
        assert found.whole_words <= found.words


@pytest.mark.parametrize("name", MADE)
def test_the_names_of_special_tokens_are_ordinary_text(name: str) -> None:
    tokenizer = opened(name)
    assert [*tokenizer.specials] == SPECIALS[name]
    unknown = {tokenizer.specials.get("[UNK]"), tokenizer.specials.get("<unk>")}
    text = "".join(f"{special} and{special} {special}" for special in SPECIALS[name])
    ids = tokenizer.encode(text).tolist()
    assert set(ids).isdisjoint(set(tokenizer.specials.values()) - unknown)
    if name in EXACT:
        assert tokenizer.decode(ids) == text
    ends = [*tokenizer.specials.values(), *ids, *tokenizer.specials.values()]
    assert tokenizer.decode(ends) == tokenizer.decode(ids)
    assert {tokenizer.token_bytes(token) for token in tokenizer.specials.values()} == {b""}


@pytest.mark.parametrize("name", MADE)
def test_tokens_one_after_another_make_the_text_that_decoding_makes(name: str) -> None:
    """Up to the space before the first word; of words with marks at their ends, up to that after the last."""
    tokenizer = opened(name)
    text = "the engine of this language naïve 12 <think> 赵."
    ids = tokenizer.encode(text).tolist()
    streamed = "".join(stream_text(iter(ids), tokenizer.token_bytes))
    assert streamed.strip() == tokenizer.decode(ids).strip()
    assert "the" in streamed
    if name in EXACT:
        assert streamed.removeprefix(" ") == text


def test_bytes_are_exact_where_the_tokenizer_has_them() -> None:
    falling_back = opened("sentencepiece")
    assert [falling_back.token_bytes(3 + byte) for byte in (0, 0xE8)] == [b"\0", b"\xe8"]
    assert b" the" in [falling_back.token_bytes(token) for token in falling_back.encode("on the")]
    byte_tokens = opened("nfc")
    for text in ("赵", "été\n", "<think>"):
        assert b"".join(map(byte_tokens.token_bytes, byte_tokens.encode(text))) == text.encode()
    assert b"##ing" not in [opened("wordpiece").token_bytes(token) for token in range(opened("wordpiece").vocab_size)]


@pytest.mark.parametrize(
    ("name", "end"), [("wordpiece", "[SEP]"), ("unigram", "</s>"), ("nfc", "<|im_end|>"), ("suffix", None)]
)
def test_the_end_of_a_text_goes_by_the_name_that_others_gave_it(name: str, end: str | None) -> None:
    tokenizer = opened(name)
    assert tokenizer.end_of_text == (None if end is None else tokenizer.specials[end])


def test_ids_may_have_holes() -> None:
    tokenizer = opened("words")
    known = set(reference("words").get_vocab().values())
    assert tokenizer.vocab_size == max(known) + 1 > len(known)
    assert [tokenizer.token_bytes(token) for token in (2, 3, 6)] == [b""] * 3
    with pytest.raises(CorpusError, match="outside this tokenizer's vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_a_token_for_the_unknown_is_one_token_and_whole_words_are_counted() -> None:
    found = measure(opened("words"), ["the engine of zebra\n", "of"])
    assert (found.documents, found.tokens, found.words, found.whole_words, found.characters) == (2, 5, 5, 5, 22)
    assert measure(opened("nfc"), ["é赵"]).whole_words == 0  # a character of several tokens is not whole


def test_meaning_is_what_decides_the_ids() -> None:
    data = json.loads(stored_json("nfc"))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["decoder"] = None
    assert Tokenizer.from_json(json.dumps(data, indent=1)).meaning == opened("nfc").meaning
    data["normalizer"] = None
    assert Tokenizer.from_json(json.dumps(data)).meaning != opened("nfc").meaning
    assert len({opened(name).meaning for name in MADE}) == len(MADE)


# What is taken for BPE, and what only looks like it.


@pytest.mark.parametrize("pattern", [CL100K_PATTERN, O200K_PATTERN], ids=["cl100k", "o200k"])
@given(
    text=st.lists(st.one_of(st.text(), st.sampled_from(["'LL", "!\n", "123", " \r\n", "é", "\t\u3000"]))).map("".join)
)
@settings(max_examples=60)
def test_patterns_of_later_tokenizers_are_encoded_here(pattern: str, text: str) -> None:
    stored, tokenizer = later(pattern)
    assert tokenizer.kind == "bpe"
    assert tokenizer.encode(text).tolist() == stored.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@functools.cache
def later(pattern: str) -> tuple[Stored, Tokenizer]:
    stored = byte_level(pattern, ["<|begin_of_text|>", "<|end_of_text|>"])
    stored.encode_special_tokens = True
    return stored, Tokenizer.from_json(stored.to_str())


def test_patterns_are_a_part_of_the_meaning() -> None:
    (_, one), (stored, _) = later(CL100K_PATTERN), later(O200K_PATTERN)
    assert one.end_of_text == one.specials["<|end_of_text|>"]
    data = json.loads(one.to_json())
    data["pre_tokenizer"] = json.loads(stored.to_str())["pre_tokenizer"]
    assert Tokenizer.from_json(json.dumps(data)).meaning != one.meaning


def swap_ids(data: Any) -> None:
    vocab = data["model"]["vocab"]
    first, second = ("".join(pair) for pair in data["model"]["merges"][:2])
    vocab[first], vocab[second] = vocab[second], vocab[first]


def other_halves(data: Any) -> None:
    """Makes abc of a and bc, where tiktoken merges ab first."""
    vocab = {symbol: number for symbol, number in data["model"]["vocab"].items() if number < 256}
    data["model"] |= {
        "vocab": vocab | {"ab": 256, "bc": 257, "abc": 258},
        "merges": [["a", "b"], ["b", "c"], ["a", "bc"]],
    }
    data["added_tokens"][0]["id"] = 259


def ordinary_token(data: Any) -> None:
    data["added_tokens"][0]["special"] = False


def prefix_space(data: Any) -> None:
    data["pre_tokenizer"]["add_prefix_space"] = True


def normalizer(data: Any) -> None:
    data["normalizer"] = {"type": "Lowercase"}


def pattern_of_its_own(data: Any) -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Isolated", "invert": False}
    data["pre_tokenizer"]["use_regex"] = False
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, data["pre_tokenizer"]]}


def unknown_token(data: Any) -> None:
    data["model"]["unk_token"] = "a"


CHANGES = [swap_ids, other_halves, ordinary_token, prefix_space, normalizer, pattern_of_its_own, unknown_token]


@pytest.mark.parametrize("change", CHANGES)
def test_what_tiktoken_would_encode_otherwise_is_left_to_tokenizers(change: Callable[[Any], None]) -> None:
    data = json.loads(train_tokenizer("bpe:300", ENGLISH).to_json())
    change(data)
    tokenizer, plain = Tokenizer.from_json(json.dumps(data)), Stored.from_str(json.dumps(data))
    assert tokenizer.kind == "other"
    for text in ("abc abcab", ENGLISH[0], "<|endoftext|>" if change is ordinary_token else ""):
        assert tokenizer.encode(text).tolist() == plain.encode(text, add_special_tokens=False).ids


# What cannot be had.


def test_bytes_that_would_be_lost_are_refused() -> None:
    stored = Stored(models.BPE())
    stored.pre_tokenizer, stored.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    stored.train_from_iterator(["abc abc"], trainers.BpeTrainer(vocab_size=9, show_progress=False))
    tokenizer = Tokenizer.from_json(stored.to_str())
    assert tokenizer.decode(tokenizer.encode("cab abc")) == "cab abc"
    with pytest.raises(CorpusError, match="byte 0x64 is not among the symbols"):
        tokenizer.encode("abcd")


def test_a_word_that_nothing_stands_for_is_refused() -> None:
    data = json.loads(stored_json("words"))
    data["model"]["unk_token"] = "nothing"
    with pytest.raises(CorpusError, match=r"cannot encode the text: .*Missing \[UNK\]"):
        Tokenizer.from_json(json.dumps(data)).encode("zebra")


def test_ids_that_tokenizers_would_change_are_refused() -> None:
    data = json.loads(stored_json("nfc"))
    data["added_tokens"][-1]["id"] += 7
    with pytest.raises(CorpusError, match=r"the ids of \['<think>'\] are not those"):
        Tokenizer.from_json(json.dumps(data))


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "sentencepiece", "nfc"])
def test_more_special_tokens(name: str) -> None:
    tokenizer = opened(name).with_specials(["<|user|>"])
    assert (tokenizer.kind, tokenizer.specials["<|user|>"]) == ("other", tokenizer.vocab_size - 1)
    text = "the engine <|user|>"
    assert tokenizer.encode(text).tolist() == opened(name).encode(text).tolist()
    with pytest.raises(UsageError, match="already"):
        tokenizer.with_specials([SPECIALS[name][0]])


def test_special_tokens_do_not_get_the_ids_of_others() -> None:
    """Which `tokenizers` would give them, as it counts symbols and not ids."""
    with pytest.raises(UsageError, match="its ids have holes"):
        opened("words").with_specials(["<|user|>"])


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"U\+D800\) at position 1"):
        opened("unigram").encode("a\ud800b")


def test_a_special_token_that_merges_make_is_refused() -> None:
    data = json.loads(train_tokenizer("bpe:300", ENGLISH).to_json())
    name = "".join(data["model"]["merges"][0])
    data["added_tokens"].append({**data["added_tokens"][0], "content": name, "id": data["model"]["vocab"][name]})
    with pytest.raises(CorpusError, match="special tokens cannot be told from ordinary text"):
        Tokenizer(json.dumps(data), Foreign(json.dumps(data))).encode("the")
