"""Text that others made tokens of."""

from collections.abc import Iterator

from scratchlab.corpus.sources.documents import Document, Span


def cut_tokens(span: Span) -> list[Span]: ...
def read_tokens(span: Span) -> Iterator[Document]: ...
