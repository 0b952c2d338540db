"""Files of a model on the Hugging Face Hub, or wherever HF_ENDPOINT points, by the standard client and its cache."""

import re
from pathlib import Path

from scratchlab.errors import RunError
from scratchlab.files import Find

SPARED = ("chat_template.jinja", "tokenizer_config.json")
"""What most models do without: where the network is switched off, they are as the cache has them."""


def is_name(source: str) -> bool:
    """Whether `source` may be the name of a model there, as `gpt2` or `user/name`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) is not None and not source.startswith(".")


def on_the_hub(name: str, revision: str | None) -> Find:
    """Finds files of the model `name`, fetching each when it is asked for, all of one commit.

    A token is taken from where the client looks for it. What is in the client's cache needs no network.
    """
    commit: list[str] = []

    def find(file: str) -> Path | None:
        path = _fetch(name, file, commit[0] if commit else revision)
        if path is not None and not commit:
            commit.append(path.parent.name)  # the cache keeps a folder a commit
        return path

    return find


def commit_of(path: Path) -> str:
    """The commit that a fetched file belongs to."""
    return path.parent.name


def _fetch(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{name} on {constants.ENDPOINT}"
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:
        known = try_to_load_from_cache(name, file, revision=revision) is not None  # that the model has none
        if known or (constants.HF_HUB_OFFLINE and file in SPARED):
            return None
        raise RunError(
            f"{name} is no file or folder here, and its {file} on {constants.ENDPOINT} could not be reached and is not "
            f"in the cache: {_first_line(error)}"
        ) from None
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise RunError(f"{where} wants its terms accepted first: do so on its page, then `hf auth login`.") from None
    except RevisionNotFoundError:
        raise RunError(f"{where} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        raise RunError(
            f"{name} is no file or folder here, and there is no model of that name on {constants.ENDPOINT}, or it is "
            "private (`hf auth login`)."
        ) from None
    except OSError as error:
        raise RunError(f"{file} of {where} could not be fetched: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
