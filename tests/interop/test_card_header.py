"""Licenses and languages as the Hub writes them, and what others are taken for."""

from pathlib import Path

import pytest

from scratchlab.errors import UsageError
from scratchlab.interop.card_header import check_header, labels_of


def test_identifiers_of_the_hub_pass() -> None:
    for license in (None, "mit", "apache-2.0", "openrail++", "lppl-1.3c", "llama3.1", "other"):
        check_header(license, ["en", "gsw", "code", "multilingual"])


@pytest.mark.parametrize(
    ("license", "meant"),
    [
        ("MIT", "mit"),
        ("MIT License", "mit"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("GPLv3", "gpl-3.0"),
        ("BSD 3-Clause", "bsd-3-clause"),
    ],
)
def test_a_license_by_its_name_is_refused_with_what_was_meant(license: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"--license {license}: .* Did you mean {meant}[?] They are listed at https"):
        check_header(license, [])


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        check_header("our own (see LICENSE)", ["English", "de", "zh-Hant", ""])
    license, english, chinese, nothing = str(caught.value).split("\n")
    assert "Did you mean" not in license
    assert license.endswith("other is for a license that has none.")
    assert english == (
        "--language English: a code of ISO 639 was expected, of two or three lower-case letters, as in en for English; "
        "or code or multilingual."
    )
    assert chinese.endswith("Did you mean zh? The Hub takes no region and no script.")
    assert nothing.startswith("--language : ")


@pytest.mark.parametrize(
    ("header", "labels"),
    [
        ("license: mit\nlanguage:\n- en\n- 'no'", ("mit", ["en", "no"])),
        ("language: no", (None, ["no"])),
        ("language: en", (None, ["en"])),
        ("tags:\n- mine\nlanguage:", (None, [])),
    ],
)
def test_what_a_header_says(header: str, labels: tuple[str | None, list[str]], tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"---\n{header}\n---\n# Mine\n", encoding="utf-8")
    assert labels_of(card) == labels


def test_a_card_without_a_header_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert labels_of(tmp_path / "README.md") == (None, [])
