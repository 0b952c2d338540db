"""What a card's header says that no run knows: the license and the languages, as the Hugging Face Hub writes them."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlab.errors import UsageError

LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
COMMON = (
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail", "unlicense", "isc",
)  # fmt: skip
"""Licenses to guess from. The Hub knows more, and more with time: only it can say that one is none of them."""
BEYOND = ("code", "multilingual")
"""What it takes for a language besides."""


def check_header(license: str | None, languages: Sequence[str]) -> None:
    """UsageError names what cannot be an identifier of a license or of a language there, all at once."""
    wrong = [] if license is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license) else [_no_license(license)]
    wrong += [_no_language(code) for code in languages if code not in BEYOND and not re.fullmatch("[a-z]{2,3}", code)]
    if wrong:
        raise UsageError("\n".join(wrong))


def labels_of(card: Path) -> tuple[str | None, list[str]]:
    """The license and the languages in the header of a card."""
    from huggingface_hub import metadata_load

    header: dict[str, Any] = metadata_load(card) or {}
    license, languages = header.get("license"), header.get("language", [])
    codes = languages if isinstance(languages, list) else [languages]
    # YAML takes a plain `no`, which is Norwegian, for false.
    told = ["no" if code is False else str(code) for code in codes if code is not None]
    return None if license is None else str(license), told


def _no_license(license: str) -> str:
    words = re.sub(r"\b(the|licen[sc]e|version)\b", " ", license.lower())
    near = difflib.get_close_matches(re.sub(r"[^a-z0-9.+]+", "-", words).strip("-"), COMMON, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return (
        f"--license {license}: an identifier of the Hub's was expected, of lower-case letters, digits, ., + and -. "
        f"{hint}They are listed at {LICENSES}; other is for a license that has none."
    )


def _no_language(code: str) -> str:
    first = re.fullmatch(r"([a-z]{2,3})([-_].*)?", code.lower())
    hint = f" Did you mean {first[1]}? The Hub takes no region and no script." if first else ""
    return (
        f"--language {code}: a code of ISO 639 was expected, of two or three lower-case letters, as in en for English; "
        f"or {' or '.join(BEYOND)}.{hint}"
    )
