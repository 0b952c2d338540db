"""Text from a model: a prompt in, pieces of text out as they come."""

import codecs
from collections.abc import Callable, Iterator, Sequence

from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError, UsageError
from scratchlab.generation.engine import Settings, generate
from scratchlab.model.build import Model
from scratchlab.runfolder import RunFolder


def run_tokenizer(folder: RunFolder) -> Tokenizer:
    """The tokenizer that a run was trained with. `RunError` if the file is no longer that one."""
    tokenizer = Tokenizer.load(folder.tokenizer_path)
    if tokenizer.sha256 != folder.manifest()["tokenizer_sha256"]:
        raise RunError(f"{folder.tokenizer_path} is not the tokenizer of this run: its hash is another.")
    return tokenizer


def run_template(folder: RunFolder) -> ChatTemplate | None:
    """How a run is spoken to; None for one that was not taught to answer. RunError if the file is damaged."""
    path = folder.chat_template_path
    if not path.is_file():
        return None
    try:
        return ChatTemplate(path.read_bytes().decode())  # with the ends of its lines as they are
    except (UnicodeDecodeError, UsageError) as error:
        raise RunError(f"{path}: {error}") from None


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


class TextStream:
    """Text out of tokens as they come: never a part of a character, and nothing from the first `stop` string on."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._token_bytes, self._stop = token_bytes, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._longest_stop = max((len(word) for word in stop), default=0)
        self._held = ""  # the end of what was read so far, in which a stop string may have begun
        self._given = 0
        self.stopped = False
        """Whether a stop string was found: there is no more text."""

    @property
    def length(self) -> int:
        """Characters so far, those included that are held back."""
        return self._given + len(self._held)

    def add(self, token: int) -> str:
        """What can be said after one token more."""
        self._held += self._decoder.decode(self._token_bytes(token))
        found = [(place + len(word), place) for word in self._stop if (place := self._held.find(word)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found)[1])  # the one that was complete first, wherever tokens part
        return self._give(len(self._held) - max(0, self._longest_stop - 1))

    def end(self) -> str:
        """The rest, when no more tokens come."""
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    def _give(self, length: int) -> str:
        length = max(0, length)
        ready, self._held = self._held[:length], self._held[length:]
        self._given += length
        return ready


def stream_text(tokens: Iterator[int], token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> Iterator[str]:
    """The same for tokens that are there for the asking."""
    stream = TextStream(token_bytes, stop)
    for token in tokens:
        if ready := stream.add(token):
            yield ready
        if stream.stopped:
            return
    yield stream.end()
