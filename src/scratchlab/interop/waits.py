"""How long to wait before a service that failed for now is asked again."""

import math

WAITS = (0.5, 2.0, 8.0, 30.0)
"""Seconds before each further attempt, unless the service says how long (`Retry-After`)."""
LONGEST_WAIT = 120.0


def advised(header: str | None, otherwise: float) -> float:
    """Seconds to wait: what the service asks for, within reason."""
    try:
        seconds = float(header or otherwise)
    except ValueError:  # a date, for one
        return otherwise
    return otherwise if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)
