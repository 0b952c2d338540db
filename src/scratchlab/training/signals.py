"""Being told to stop: SIGTERM and Ctrl-C ask for a checkpoint; a second one does not wait for it."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Set once a signal has asked the run to stop."""

    requested: bool = False


@contextmanager
def stop_on_signals(patient: bool = False) -> Generator[StopRequest]:
    """While inside, the first SIGTERM or SIGINT only sets `requested`; after it they act as they did before.

    With `patient` further ones change nothing: to a process of torchrun's Ctrl-C comes twice, from the terminal and
    from torchrun, which by itself ends those that do not end in time.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handler(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        for each, action in before.items() if not patient else ():
            signal.signal(each, action)

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
