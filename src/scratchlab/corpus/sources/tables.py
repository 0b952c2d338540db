"""Rows of text: JSON Lines, CSV and Parquet."""

from collections.abc import Iterator

from scratchlab.corpus.sources.documents import Document, Span


def cut_lines(span: Span) -> list[Span]: raise NotImplementedError
def read_json_lines(span: Span) -> Iterator[Document]: raise NotImplementedError
def read_csv(span: Span) -> Iterator[Document]: raise NotImplementedError
def cut_row_groups(span: Span) -> list[Span]: raise NotImplementedError
def read_parquet(span: Span) -> Iterator[Document]: raise NotImplementedError
