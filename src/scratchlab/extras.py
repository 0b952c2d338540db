"""Packages that only some commands need: whether they are there, and the line that installs them."""

import importlib.util
import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from scratchlab.errors import MissingExtraError


def require(what: str, extra: str, *packages: str) -> None:
    """MissingExtraError, with the line that installs them, unless all `packages` of an extra are there."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise missing(what, extra)


def missing(what: str, extra: str) -> MissingExtraError:
    """That `what` needs the packages of an extra, and how they are added to this installation."""
    return MissingExtraError(f"{what} needs more packages: pip install {requirement(extra, origin())}")


def origin() -> str | None:
    """Where pip took scratchlab from, as it notes it down (PEP 610, JSON); None if an index had it."""
    try:
        return distribution("scratchlab").read_text("direct_url.json")
    except PackageNotFoundError:  # the sources themselves, on Python's path
        root = Path(__file__).resolve().parents[2]
        return json.dumps({"url": root.as_uri(), "dir_info": {}})


def requirement(extra: str, noted: str | None) -> str:
    """What pip is asked for, quoted for a shell, so that it adds an extra to the scratchlab that is here.

    The name alone would fetch whatever an index has by that name, where this one came from a clone.
    """
    if noted is None:
        return shlex.quote(f"scratchlab[{extra}]")
    found = json.loads(noted)
    if "dir_info" in found:
        folder = url2pathname(urlsplit(found["url"]).path)
        editable = "--editable " if found["dir_info"].get("editable") else ""
        return editable + shlex.quote(f"{folder}[{extra}]")
    revision = found.get("vcs_info", {})
    address = f"{revision['vcs']}+{found['url']}@{revision['commit_id']}" if revision else found["url"]
    return shlex.quote(f"scratchlab[{extra}] @ {address}")
