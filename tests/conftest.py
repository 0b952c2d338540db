"""Every test computes on one thread from the same random state, and reaches no network."""

import signal
import socket
from collections.abc import Iterator

import pytest
import torch

from scratchlab import hardware

measured_rate = hardware._measured_rate
torch.set_num_threads(1)  # for fixtures of modules too, which come before `steady`
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no test, and nothing that one starts, heeds Ctrl-C


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, seeded default generators, and a refusal to connect anywhere but to this machine.

    How fast products are is measured with small ones: large ones in bf16 take many seconds on most CPUs.
    """
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: tuple[str, int] | str) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(hardware, "_measured_rate", lambda *asked: measured_rate(*asked[:2], 128))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")  # clients need not read certificates that no test will see
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
