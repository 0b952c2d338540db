"""What an export should give: out of the run itself, or out of the record of its proof."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.chat import ChatTemplate, Message
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, RunError
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.hard_strings import hard_strings, library_text, spoken, without_specials
from scratchlab.interop.names import listed
from scratchlab.model.build import empty_model
from scratchlab.model.gpt import GPT
from scratchlab.model.load import At, load_model
from scratchlab.runfolder import Record, RunFolder

TIE = 1e-4
"""Of two tokens whose logits lie no farther apart, either may be written."""
WRITTEN, PROMPT = 200, 32
"""Tokens that are written in all, and of the prompt before each text, where the context has room."""
COMPARED = 2**23
"""Logits that are compared of a sequence, at most."""
RECORDED, COLUMNS = 8, 24
"""Positions of a sequence whose logits are recorded, and of how many tokens, besides the likeliest ones."""
FEWEST_TEXTS = 3
"""An empty one, a space and ordinary text are known to any tokenizer."""
COVERED = 4096
"""Tokens of the vocabulary, at most, of which each is read once, and its logit is computed once."""
MOST_TEXT = 2000
"""Characters of ordinary text that are tried on the tokenizer."""
HELD_OUT, TRAINING = "held_out", "training"
PRIVATE = (HELD_OUT, TRAINING)
"""The text of the run's own corpus, which is compared and not recorded: what was held out, or, where nothing was, its
training split."""
LOADED = ("ends", "end_in_config", "max_length", "ways_of_writing")
SPOKEN = ("symbols", "end_of_text", "model_max_length", "conversation")
FACTS = (*LOADED, *SPOKEN)
"""What else is to be known of a model as it is loaded, and of its tokenizer."""
TALK = ("Hello, who are you?", "A model.", "What can you do?", "I can write.", "Then write to me.")
"""Of several turns, for a template may word each of them in another way."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Expected:
    """What should come out. Sequences and texts go by their names."""

    order: Record
    """What is asked for, as `anybody.py` takes it, but for `code`."""
    logits: Mapping[str, Floats]
    """Of shape (positions, tokens)."""
    cover: Floats
    """Of shape (tokens, 1): in the sequences of the cover, one after another, of each token that comes next."""
    columns: Sequence[int] | None
    """Of which tokens; None for all."""
    ids: Mapping[str, Sequence[int]]
    """The tokens of the texts."""
    texts: Mapping[str, str]
    """What they are when they come back."""
    facts: Record
    """By the names in `FACTS`."""


def in_float32(folder: RunFolder, at: At | int) -> GPT:
    """The run's model, computing in float32. RunError for a recurrent network."""
    trained = load_model(folder, at, "cpu")
    if not isinstance(trained, GPT):
        raise RunError(f"{folder.path} is a recurrent network, which Hugging Face has no class for.")
    return float32_model(trained.config, trained.state_dict(), trained.vocab_size, trained.end_of_text)


def float32_model(config: GPTSection, tensors: Mapping[str, Tensor], vocab_size: int, end_of_text: int | None) -> GPT:
    """A GPT of these weights, computing in float32."""
    model = empty_model(config, vocab_size, torch.float32, end_of_text)
    model.load_state_dict(tensors, assign=True)
    assert isinstance(model, GPT)
    return model.eval().requires_grad_(False)


def expected_of(folder: RunFolder, model: GPT) -> Expected:
    """What the run itself computes with `model`, which is its own."""
    tokenizer, length = run_tokenizer(folder), model.config.context_length
    texts = {str(number): text for number, text in enumerate(hard_strings(tokenizer))}
    library = spoken(tokenizer, library_text())
    texts["library"] = library[:MOST_TEXT]
    plain = tokenizer.encode(library).tolist() or list(range(tokenizer.vocab_size))
    sequences = {"library": plain[:length], "random": _random_tokens(tokenizer.vocab_size, length)}
    for name, own in _own_tokens(folder, length).items():
        sequences[name] = own
        texts |= {name: text} if without_specials(tokenizer, text := tokenizer.decode(own)) else {}
    most = max(RECORDED, COMPARED // model.vocab_size)
    places = {name: _places(len(row), most) for name, row in sequences.items()}
    ids = {name: tokenizer.encode(text).tolist() for name, text in texts.items()}
    (talk, facts), cover = _facts(tokenizer, run_template(folder), length), _cover(tokenizer.vocab_size, length)
    order = {
        "sequences": sequences,
        "positions": places,
        "cover": cover,
        "at_once": _at_once(cover, tokenizer.vocab_size),
        "written": list(_texts(model, plain)),
        "tie": TIE,
        "texts": texts,
        "conversation": talk,
    }
    logits = {name: _logits(model, row, places[name]) for name, row in sequences.items()}
    back = {name: tokenizer.decode(row) for name, row in ids.items()}
    return Expected(order, logits, _cover_logits(model, order), None, ids, back, facts)


def _texts(model: GPT, plain: Sequence[int]) -> Iterator[Record]:
    """Texts after stretches of `plain`, the likeliest token each time: as many as make `WRITTEN` tokens.

    One that fills the context ends there; so does one at which a document does, where the model parts them.
    """
    length = model.config.context_length
    size = min(PROMPT, max(1, length // 4), len(plain))
    if size == length:  # there is no place to write to
        return
    written = 0
    for start in itertools.count(step=size):
        prompt = [plain[place % len(plain)] for place in range(start, start + size)]
        most = min(WRITTEN - written, length - size)
        tokens = list(generate(model, prompt, Settings(max_tokens=most, temperature=0)))
        if model.end_of_text in tokens:
            tokens = tokens[: tokens.index(model.end_of_text) + 1]
        yield {"prompt": prompt, "tokens": tokens}
        written += len(tokens)
        if written >= WRITTEN:
            return


def _random_tokens(vocab_size: int, length: int) -> list[int]:
    return np.random.default_rng(0).integers(0, vocab_size, length).tolist()


def _cover(vocab_size: int, length: int) -> list[list[int]]:
    """Sequences in which each token of the vocabulary stands, or `COVERED` of them; the last one begins anew."""
    tokens = np.random.default_rng(1).permutation(vocab_size)[:COVERED]
    width = min(length, len(tokens))
    return np.resize(tokens, (math.ceil(len(tokens) / width), width)).tolist()


def _at_once(cover: Sequence[Sequence[int]], vocab_size: int) -> int:
    """Of how many sequences the logits are computed together."""
    return max(1, COMPARED // (len(cover[0]) * vocab_size))


def _places(length: int, most: int) -> list[int]:
    """At most so many positions, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).round().astype(int)).tolist()


def _own_tokens(folder: RunFolder, length: int) -> dict[str, list[int]]:
    """The beginning of its own text by what it is (one of `PRIVATE`), if the corpus is where it was; else nothing."""
    recorded = folder.manifest().get("evaluation_corpus") or {}
    if not recorded.get("path"):
        return {}
    try:
        corpus = open_corpus(recorded["path"])
    except CorpusError:
        return {}
    splits = [name for name in ("validation", "test", "train") if name in corpus.manifest.splits]
    if corpus.sha256 != recorded["sha256"] or not splits:
        return {}
    split = corpus.split(splits[0])
    return {TRAINING if splits[0] == "train" else HELD_OUT: split.read(0, min(length, len(split))).tolist()}


@torch.inference_mode()
def _logits(model: GPT, tokens: Sequence[int], places: Sequence[int]) -> Floats:
    hidden_BTC, _ = model.hidden(torch.tensor([tokens]))
    return model.logits(hidden_BTC[0, list(places)]).numpy()


@torch.inference_mode()
def _cover_logits(model: GPT, order: Record) -> Floats:
    rows = torch.tensor(order["cover"]).split(order["at_once"])
    found = [model.logits(model.hidden(part)[0]).gather(2, part.roll(-1, 1)[..., None]) for part in rows]
    return torch.cat(found).reshape(-1, 1).numpy()


def _facts(tokenizer: Tokenizer, template: ChatTemplate | None, length: int) -> tuple[list[Message] | None, Record]:
    """A conversation, if the run is spoken to by a template, and what else is to be known."""
    ends = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    facts: Record = {"symbols": tokenizer.vocab_size, "end_of_text": tokenizer.end_of_text, "ways_of_writing": []}
    facts |= {"end_in_config": tokenizer.end_of_text, "max_length": length, "model_max_length": length}
    if template is None:
        return None, facts | {"ends": ends, "conversation": None}
    talk: list[Message] = [
        {"role": "assistant" if place % 2 else "user", "content": spoken(tokenizer, said)}
        for place, said in enumerate(TALK)
    ]
    ends = sorted({*ends, template.end_of_turn(tokenizer)})
    return talk, facts | {"ends": ends, "conversation": template.prompt(tokenizer, talk)}


# On record.


def recorded(expected: Expected) -> Record:
    """What of it goes into proof.json: enough to compare with, and nothing of the run's own corpus."""
    order = expected.order
    sequences = {name: row for name, row in order["sequences"].items() if name not in PRIVATE}
    kept = {name: _places(len(expected.logits[name]), RECORDED) for name in sequences}
    likeliest = {int(token) for name in sequences for token in expected.logits[name][kept[name]].argmax(-1)}
    columns = sorted(likeliest | set(_places(expected.facts["symbols"], COLUMNS)))
    return {
        "sequences": sequences,
        "positions": {name: [order["positions"][name][place] for place in kept[name]] for name in sequences},
        "cover": order["cover"],
        "cover_logits": _rounded(expected.cover.T)[0],
        "columns": columns,
        "logits": {name: _rounded(expected.logits[name][kept[name]][:, columns]) for name in sequences},
        "written": order["written"],
        "texts": {
            name: {"text": order["texts"][name], "ids": expected.ids[name], "back": expected.texts[name]}
            for name in order["texts"]
            if name not in PRIVATE
        },
        "conversation": order["conversation"],
        "facts": expected.facts,
    }


def _rounded(logits: Floats) -> list[list[float]]:
    """To the digits that float32 has."""
    return [[float(f"{value:.8g}") for value in row] for row in logits]


def from_record(reference: Record) -> Expected:
    """What `recorded` kept. KeyError, TypeError or ValueError for what it cannot have written."""
    _check_whole(reference)
    texts: dict[str, Any] = reference["texts"]
    order = {name: reference[name] for name in ("sequences", "positions", "cover", "written", "conversation")}
    order |= {"tie": TIE, "at_once": _at_once(order["cover"], reference["facts"]["symbols"])}
    order["texts"] = {name: text["text"] for name, text in texts.items()}
    logits = {name: np.array(rows, np.float32) for name, rows in reference["logits"].items()}
    for text in order["written"]:
        if not (text["prompt"] and text["tokens"]):
            raise ValueError("a text was written of nothing, or after nothing")
    for name, row in order["sequences"].items():
        places = order["positions"][name]
        if logits[name].shape != (len(places), len(reference["columns"])) or not max(places) < len(row):
            raise ValueError(f"the logits of {name!r} are not those of its positions")
    return Expected(
        order=order,
        logits=logits,
        cover=np.array(reference["cover_logits"], np.float32)[:, None],
        columns=reference["columns"],
        ids={name: text["ids"] for name, text in texts.items()},
        texts={name: text["back"] for name, text in texts.items()},
        facts={name: reference["facts"][name] for name in FACTS},
    )


def _check_whole(reference: Record) -> None:
    """ValueError for a record from which something was taken: what is compared with less says less."""
    sequences, cover = reference["sequences"], list(itertools.chain(*reference["cover"]))
    symbols, context = reference["facts"]["symbols"], reference["facts"]["max_length"]
    fewest = {name: min(RECORDED, len(row)) for name, row in sequences.items()}
    lacking = {
        "sequences": not sequences["library"] or len(sequences["random"]) != context,
        "positions": any(len(reference["positions"][name]) < least for name, least in fewest.items()),
        "columns": len(reference["columns"]) < min(COLUMNS, symbols),
        "cover": len(set(cover)) < min(COVERED, symbols) or len(reference["cover_logits"]) != len(cover),
        "written": context > 1 and sum(len(text["tokens"]) for text in reference["written"]) < WRITTEN,
        "texts": "library" not in reference["texts"] or len(reference["texts"]) < FEWEST_TEXTS,
    }
    if lacks := [name for name, lacks in lacking.items() if lacks]:
        raise ValueError(f"it lacks a part of its {listed(lacks)}")
