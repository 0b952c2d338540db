"""The Hugging Face Hub, or wherever HF_ENDPOINT points: how a place on it is written, and what can go wrong there."""

import contextlib
import difflib
import hashlib
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import unquote

from scratchlab.errors import CorpusError, ScratchlabError, UnreachableError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf:"
Kind = Literal["dataset", "model"]


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


# Files of a repository.


def files_at(name: str, kind: Kind, commit: str) -> "dict[str, RepoFile]":
    """The files of a repository at a commit, by their paths in it."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi().list_repo_tree(name, recursive=True, revision=commit, repo_type=kind)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def is_there(file: Path, sha256: str, found: "RepoFile | None") -> bool:
    """Whether `found` is this very file: large ones are known on the Hub by SHA-256, small ones by git's SHA-1."""
    if found is None or found.size != file.stat().st_size:
        return False
    if found.lfs:
        return found.lfs.sha256 == sha256
    content = file.read_bytes()
    return found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def send(
    name: str,
    kind: Kind,
    branch: str,
    parent: str,
    files: "Sequence[CommitOperationAdd]",
    gone: "Sequence[CommitOperationDelete]" = (),
    *,
    message: str,
) -> str:
    """Upload files one after another, and let all appear, and others go, at once. Gives the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    for file in files:  # each is whole in the Hub's storage before the next, and is not sent a second time
        api.preupload_lfs_files(name, [file], repo_type=kind, revision=branch, free_memory=False)
    everything = [*files, *gone]
    return api.create_commit(
        name, everything, commit_message=message, repo_type=kind, revision=branch, parent_commit=parent
    ).oid


# What can go wrong.


@contextlib.contextmanager
def hub_errors(where: str, what: Kind = "dataset", failed: type[ScratchlabError] = CorpusError) -> Generator[None]:
    """Turn what the Hub's client raises about `where` into an error of the kind `failed` that says what to do.

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
        kind = UnreachableError if _may_pass(cause) else failed
        raise kind(_explain(cause, where, what)) from error


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


def _explain(error: BaseException, where: str, what: Kind) -> str:
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
                f"There is no {what} {where}, or it is private: then `hf auth login`, or set HF_TOKEN, with an "
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
