"""Writing within the context: as long as the question is seen."""

import pytest

from scratchlab.generation.context import fitted, room_after, within
from scratchlab.generation.engine import Settings


@pytest.mark.parametrize(("length", "asked", "written"), [(3, 5, 5), (9, 5, 4), (12, 5, 1), (8, 5, 5)])
def test_the_last_token_is_one_that_was_written_in_sight_of_the_whole_prompt(
    length: int, asked: int, written: int
) -> None:
    assert within(Settings(max_tokens=asked), length, 12).max_tokens == written
    assert within(Settings(max_tokens=asked), length, None).max_tokens == asked
    assert room_after(length, 12) == 13 - length
    assert length + written - 1 <= 12, "what the model reads before the last one"


def test_a_prompt_that_is_too_long_loses_its_beginning_and_no_other_does() -> None:
    whole = fitted(range(12), Settings(max_tokens=9), 12)
    assert (list(whole.prompt), whole.settings.max_tokens, whole.cut) == (list(range(12)), 1, 0)
    cut = fitted(range(13), Settings(max_tokens=9), 12)
    assert (list(cut.prompt), cut.settings.max_tokens, cut.cut) == (list(range(4, 13)), 4, 4)
    endless = fitted(range(99), Settings(max_tokens=9), None)
    assert (list(endless.prompt), endless.settings.max_tokens, endless.cut) == (list(range(99)), 9, 0)
