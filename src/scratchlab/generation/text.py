"""Text from a model: a prompt in, pieces of text out as they come."""

import codecs
from collections.abc import Callable, Iterator, Sequence

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.generation.engine import Settings, generate
from scratchlab.model.build import Model
from scratchlab.runfolder import RunFolder


def run_tokenizer(folder: RunFolder) -> Tokenizer:
    """The tokenizer that a run was trained with. `RunError` if the file is no longer that one."""
    tokenizer = Tokenizer.load(folder.tokenizer_path)
    if tokenizer.sha256 != folder.manifest()["tokenizer_sha256"]:
        raise RunError(f"{folder.tokenizer_path} is not the tokenizer of this run: its hash is another.")
    return tokenizer


def speaks(folder: RunFolder, tokenizer: Tokenizer) -> bool:
    """Whether the tokens of `tokenizer` mean to the model of a run what those of its own do."""
    same_file = tokenizer.sha256 == folder.manifest()["tokenizer_sha256"]
    return same_file or tokenizer.meaning == run_tokenizer(folder).meaning


def write(model: Model, tokenizer: Tokenizer, prompt: str, settings: Settings) -> Iterator[str]:
    """Go on from `prompt` (from the start of a document if it is empty), in pieces as they come."""
    tokens = generate(model, prompt_tokens(tokenizer, prompt), settings, tokenizer.end_of_text)
    return stream_text(tokens, tokenizer.token_bytes, settings.stop)


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's tokens; for an empty one what stands before a document, or a line if the corpus is a single one."""
    if prompt:
        return tokenizer.encode(prompt).tolist()
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    newlines = [token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) == b"\n"]
    return newlines or [0]


def stream_text(tokens: Iterator[int], token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> Iterator[str]:
    """Turn tokens into text as they come, never a part of a character, ending before the first `stop` string."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    longest_stop = max((len(word) for word in stop), default=0)
    held = ""  # the end of what was written so far, in which a stop string may have begun
    for token in tokens:
        held += decoder.decode(token_bytes(token))
        found = [(place + len(word), place) for word in stop if (place := held.find(word)) >= 0]
        if found:
            _, place = min(found)  # the one that was complete first, wherever tokens part
            yield held[:place]
            return
        ready = len(held) - max(0, longest_stop - 1)
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    yield held + decoder.decode(b"", final=True)
