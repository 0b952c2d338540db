"""Commands that leave nothing half made when they are told to end."""

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def ends_cleanly(command: Callable[..., Any]) -> Callable[..., Any]:
    """While the command works, SIGTERM and Ctrl-C end it as an error would: what it has half made is removed.

    The exit codes are 143 and 130. A second one does not wait for that.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
            return command(*arguments, **options)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, action in before.items():
                signal.signal(number, action)

        def end(number: int, frame: FrameType | None) -> None:
            restore()
            raise SystemExit(128 + number)

        for number in before:
            signal.signal(number, end)
        try:
            return command(*arguments, **options)
        finally:
            restore()

    return wrapped
