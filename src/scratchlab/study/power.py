"""What a study can see: power, the smallest effect that shows, and how many seeds a question takes.

A design is known by three numbers: the deviation of one block's difference (arm less baseline), the blocks, and how
many degrees of freedom each block after the first adds to the error: arms - 1 where it is pooled, 1 where it is not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special

from scratchlab.study.least_squares import LEVEL

POWER = 0.8
"""How often an effect of the size that was planned for is found."""
MANY = 1_000
"""From so many blocks on the normal distribution is near enough."""


@dataclass(frozen=True, slots=True)
class Design:
    """How precisely a difference is known after some blocks."""

    spread: float
    """Standard deviation of one block's difference between an arm and the baseline."""
    freedom: int
    """Degrees of freedom that each block after the first adds."""
    level: float = LEVEL
    """What p must be below: .05 over the number of interventions, where there are several (Holm's first step)."""


def pooled(residual_sd: float, arms: int, level: float = LEVEL) -> Design:
    """Paired blocks of `arms` arms (with the baseline): the error pooled, the level shared by the interventions."""
    return Design(math.sqrt(2) * residual_sd, arms - 1, level / max(1, arms - 1))


def power(design: Design, effect: float, blocks: int) -> float:
    """How often a true `effect` is claimed after `blocks` blocks: the noncentral t, both sides."""
    freedom = design.freedom * (blocks - 1)
    if freedom < 1:
        return 0.0
    if design.spread == 0:
        return float(effect != 0)
    shift = abs(effect) / design.spread * math.sqrt(blocks)
    bound = float(special.stdtrit(freedom, 1 - design.level / 2))
    if freedom > MANY or shift > 30:  # where scipy's noncentral t gives out
        return float(special.ndtr(shift - bound))
    return float(1 - special.nctdtr(freedom, shift, bound) + special.nctdtr(freedom, shift, -bound))


def power_negligible(design: Design, effect: float, smallest_effect: float, blocks: int) -> float:
    """How often a true `effect` is found to lie within plus or minus `smallest_effect`, by two one-sided tests at 5%.

    Each side's noncentral t, and the sum less one: a little too low where both are in doubt.
    """
    freedom = design.freedom * (blocks - 1)
    if freedom < 1:
        return 0.0
    if design.spread == 0:
        return float(abs(effect) < smallest_effect)
    return max(0.0, sum(_one_sided(design, smallest_effect + side * effect, blocks) for side in (-1, 1)) - 1)


def _one_sided(design: Design, distance: float, blocks: int) -> float:
    freedom, shift = design.freedom * (blocks - 1), distance / design.spread * math.sqrt(blocks)
    bound = float(special.stdtrit(freedom, 1 - LEVEL))
    if freedom > MANY or abs(shift) > 30:
        return float(special.ndtr(shift - bound))
    return float(1 - special.nctdtr(freedom, shift, bound))


def smallest_visible(design: Design, blocks: int) -> float:
    """The true effect that `blocks` blocks show four times in five; infinite where they show nothing."""
    if design.freedom * (blocks - 1) < 1:
        return math.inf
    low, high = 0.0, design.spread or 1.0
    while power(design, high, blocks) < POWER:
        low, high = high, high * 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(design, middle, blocks) < POWER else (low, middle)
    return high


def blocks_to_claim(design: Design, effect: float) -> int:
    """How many blocks show a true `effect` four times in five."""
    if effect == 0:
        raise ValueError("no number of blocks shows an effect of zero")
    z = float(special.ndtri(1 - design.level / 2) + special.ndtri(POWER))
    return _first(lambda blocks: power(design, effect, blocks), (z * design.spread / effect) ** 2)


def blocks_to_settle(design: Design, effect: float, smallest_effect: float) -> int:
    """How many blocks decide the question four times in five, if `effect` is the true one.

    A large effect is settled when it is claimed; one below `smallest_effect` also when it is found negligible,
    whichever takes fewer blocks. ValueError if both are 0.
    """
    room = smallest_effect - abs(effect)
    if room <= 0:
        return blocks_to_claim(design, effect)
    claim = blocks_to_claim(design, effect) if effect else None
    z = float(special.ndtri(1 - LEVEL) + special.ndtri(POWER))
    dismiss = _first(lambda n: power_negligible(design, effect, smallest_effect, n), (z * design.spread / room) ** 2)
    return dismiss if claim is None else min(claim, dismiss)


def _first(found: Callable[[int], float], about: float) -> int:
    """The fewest blocks with enough power; `about`: their number in the normal limit, which is too low for few."""
    if about > MANY:
        return math.ceil(about)
    low, high = 1, max(2, math.ceil(about))
    while found(high) < POWER:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if found(middle) < POWER else (low, middle)
    return high
