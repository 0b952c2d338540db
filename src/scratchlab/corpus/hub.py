"""The Hugging Face Hub, or wherever HF_ENDPOINT points: how a place on it is written, and what can go wrong there."""

import contextlib
import difflib
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

from scratchlab.errors import CorpusError, UnreachableError, UsageError

SCHEME = "hf:"


@dataclass(frozen=True, slots=True)
class Location:
    """A dataset repository as a person names it: `hf:USER/NAME`, perhaps followed by `?KEY=VALUE&KEY=VALUE`."""

    repository: str
    """USER/NAME."""
    parameters: Mapping[str, str]

    @property
    def where(self) -> str:
        """For people."""
        from huggingface_hub import constants

        return f"{SCHEME}{self.repository} on {constants.ENDPOINT}"


def parse_location(location: str, known: Sequence[str]) -> Location:
    """Read `hf:USER/NAME?...`, whose parameters may be those that are `known`. UsageError says what is wrong in it."""
    repository, _, query = location.removeprefix(SCHEME).partition("?")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise UsageError(
            f"{location} names no dataset: {SCHEME} is followed by USER/NAME, as in {SCHEME}HuggingFaceFW/fineweb-edu."
        )
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, _, value = pair.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]}=?" if near else f"There are: {', '.join(known)}."
            raise UsageError(f"{location} has a parameter {key!r} that means nothing here. {hint}")
        if not value or key in parameters:
            raise UsageError(f"{location}: {key}= is to be given once, with a value.")
        parameters[key] = unquote(value)
    return Location(repository, parameters)


@contextlib.contextmanager
def hub_errors(where: str) -> Generator[None]:
    """Turn what the Hub's client raises about `where` into a CorpusError that says what to do.

    What this machine's own disk raises is passed on.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The bases are the errors of the HTTP library beneath the client, which is not the same one in every version.
    failures = cast(tuple[type[Exception]], (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__))
    try:
        yield
    except failures as error:
        cause = _root(error)
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
            raise
        kind = UnreachableError if _may_pass(cause) else CorpusError
        raise kind(_explain(cause, where)) from error


def _may_pass(error: BaseException) -> bool:
    """Whether what failed may work the next time, without anybody's doing."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, OfflineModeIsEnabled)


def _root(error: BaseException) -> BaseException:
    """The client's error, out of those that others made of it: a file not found, an upload that failed."""
    from huggingface_hub.errors import HfHubHTTPError

    wrapped = isinstance(error, FileNotFoundError | RuntimeError) and not isinstance(error, HfHubHTTPError)
    return _root(error.__cause__) if wrapped and error.__cause__ else error


def _explain(error: BaseException, where: str) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case OfflineModeIsEnabled():
            return f"{where} could not be reached: HF_HUB_OFFLINE is set. Unset it, or use what is on this machine."
        case GatedRepoError():
            return f"{where} wants its terms accepted first: do so on its page, then `hf auth login`."
        case RepositoryNotFoundError():
            return (
                f"There is no dataset {where}, or it is private: then `hf auth login`, or set HF_TOKEN, with an "
                "account that may see it."
            )
        case RevisionNotFoundError():
            return f"{where} has no such revision. Give one of its branches or tags, or a commit in full."
        case EntryNotFoundError():
            return f"{where} is not there."
        case HfHubHTTPError():
            return _refused(error.response.status_code, error.server_message or in_words(error), where)
        case RuntimeError() | ValueError():
            return f"{where} failed: {in_words(error)}. Run the same command again: it goes on where it stopped."
        case _:
            return (
                f"{where} could not be reached: {in_words(error)}. Check the network, and HF_ENDPOINT if you set it "
                f"(it is {constants.ENDPOINT}), and run the same command again: it goes on where it stopped."
            )


def _refused(status: int, message: str, where: str) -> str:
    """The Hub's answer that it will not; its own words too, since only it knows of quotas and the like."""
    answer = f"(it says: {message})"
    match status:
        case 401:
            return f"{where} does not know who you are: `hf auth login`, or set HF_TOKEN {answer}."
        case 403:
            return (
                f"{where} did not permit this {answer}. Use a token with the right to read, or to write if you push, "
                "for that user or organization."
            )
        case 412:
            return f"{where} was changed by somebody else in the meantime {answer}. Run the same command again."
        case _:
            return f"{where} failed with HTTP status {status} {answer}. Try again later: it goes on where it stopped."


def in_words(error: BaseException) -> str:
    """What an error says, in one line without a full stop; its name if it says nothing."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
