"""Figures as people read them."""


def with_error(value: float | None, error: float | None, digits: int = 4) -> str:
    """`1.2345 ± 0.0067`, or the value alone where there is no error to give."""
    if value is None:
        return "not finite"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
