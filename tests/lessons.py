"""Instructions for the tests, made in memory: a model of two layers learns them by heart in a second."""

import json
from pathlib import Path
from typing import Any

WORDS = ("cat", "dog", "sun", "sea", "hat", "map", "ink", "oak", "bee", "ice")


def alpaca(number: int) -> dict[str, Any]:
    """An instruction of which every third has an input."""
    word, again = WORDS[number % 10], number // 10
    if number % 3 == 0:
        return {"instruction": "Say it.", "input": f"{word} {again}", "output": f"{word}?"}
    return {"instruction": f"Say {word} {again}.", "input": "", "output": f"{word} {again}!"}


def write_alpaca(path: Path, count: int = 40) -> str:
    path.write_text(json.dumps([alpaca(number) for number in range(count)]), encoding="utf-8")
    return str(path)


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
