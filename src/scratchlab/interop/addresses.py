"""Addresses of OpenAI-compatible servers, and the one of them that a person's key is for.

The key in OPENAI_API_KEY is for the address in OPENAI_BASE_URL, and where that is not set for OpenAI: so OpenAI's own
client has it. It goes nowhere else, and unencrypted to this machine alone.
"""

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

from scratchlab.errors import UsageError

KEY, KEY_FOR = "OPENAI_API_KEY", "OPENAI_BASE_URL"
"""The environment variables with the key, and with the address that it is for."""
OPENAI_BASE = "https://api.openai.com/v1"
PORTS = {"http": 80, "https": 443}


def checked(address: str, variable: str = "") -> str:
    """An address without a slash at its end. UsageError for what is none; `variable` is where it was found."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in PORTS or not parts.hostname or not address.isprintable() or " " in address:
            raise ValueError("expected http:// or https:// and a host, as in http://localhost:8000/v1")
        _ = parts.port
    except ValueError as error:
        where = f"{variable}=" if variable else ""
        raise UsageError(f"{where}{address} is no address: {error}.") from None
    return address.rstrip("/")


def key_for(base: str) -> str | None:
    """The key that a server gets; None for all but the one that it is for.

    UsageError for a key that would go over a network unencrypted, and for one that cannot be sent.
    """
    key = os.environ.get(KEY, "").strip()
    if not key or not _is_for(base):
        return None
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{KEY} holds no key: a key is of printable ASCII characters.")
    parts = urlsplit(base)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname or ""):
        raise UsageError(
            f"{base}: the key in {KEY} would go there unencrypted. Name an address with https, or one of this machine "
            f"(a tunnel, say); if it needs no key, unset {KEY_FOR}."
        )
    return key


def key_words(base: str) -> str:
    """Where a server's key comes from, for one that did not take what it got."""
    if _is_for(base):
        return f"Its key is taken from the variable {KEY}."
    return f"It got no key: one is taken from the variable {KEY} where {KEY_FOR} is {base}."


def _is_for(base: str) -> bool:
    return _origin(urlsplit(base)) == _origin(urlsplit(checked(os.environ.get(KEY_FOR) or OPENAI_BASE, KEY_FOR)))


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
