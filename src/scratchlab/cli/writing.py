"""What the commands that write share: how the next token is chosen."""

import functools
from collections.abc import Callable
from typing import Any

import click


def choosing(temperature: float) -> Callable[[Any], Any]:
    """--temperature, which is `temperature` unless given, --top-k and --top-p."""

    options = (
        click.option("--temperature", type=click.FloatRange(min=0), default=temperature, show_default=True,
                     help="0: the likeliest."),
        click.option("--top-k", type=click.IntRange(min=1), help="Draw from the k likeliest tokens only."),
        click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True),
                     help="Draw from the likeliest p only."),
    )  # fmt: skip

    def with_options(command: Any) -> Any:
        return functools.reduce(lambda inner, option: option(inner), reversed(options), command)

    return with_options
