"""Which addresses there are, and which of them a key is for."""

import pytest

from scratchlab.errors import UsageError
from scratchlab.interop.addresses import OPENAI_BASE, checked, key_for, key_words


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.mark.parametrize("address", ["http://localhost:8000/v1/", "https://host/v1", "http://[::1]:80/v1"])
def test_an_address_has_no_slash_at_its_end(address: str) -> None:
    assert checked(address) == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost:8000/v1", "ftp://host", "http://", "http:///v1", "http://[::1/v1", "http://host:99999/v1"),
        *("http://host:-1/v1", "http://host:port/v1", "http://ho st/v1", "http://host/\x01"),
    ],
)
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        checked(address)


def test_a_key_is_for_openai_alone_unless_another_address_is_named() -> None:
    assert key_for(OPENAI_BASE) == "sk-secret"
    others = ("http://api.openai.com/v1", "https://api.openai.com.evil.com/v1", "https://api.openai.com@evil.com/v1")
    for other in (*others, "https://api.openai.com:444/v1", "http://localhost:8000/v1", "https://openai.com/v1"):
        assert key_for(other) is None


def test_a_key_goes_to_the_address_that_is_named_and_no_more_to_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://My.Server/v1")
    assert key_for("https://my.server:443/v1") == "sk-secret"
    assert "taken from the variable OPENAI_API_KEY." in key_words("https://my.server/v1")
    for other in (OPENAI_BASE, "http://my.server/v1", "https://my.server:8443/v1", "https://other.server/v1"):
        assert key_for(other) is None
        assert "It got no key: one is taken from the variable OPENAI_API_KEY where OPENAI_BASE_URL" in key_words(other)
    monkeypatch.setenv("OPENAI_BASE_URL", "my.server")
    with pytest.raises(UsageError, match=r"OPENAI_BASE_URL=my.server is no address"):
        key_for(OPENAI_BASE)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_a_key_goes_unencrypted_to_this_machine_alone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}/v1")
    assert key_for(f"http://{host}/v1") == "sk-secret"
    for other in ("10.0.0.1", "localhost.evil.com", "127.evil.com"):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{other}/v1")
        with pytest.raises(UsageError, match="would go there unencrypted"):
            key_for(f"http://{other}/v1")


def test_what_cannot_be_a_key_is_said_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("sk-\nsecret", "sk-sécret"):
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(UsageError, match="OPENAI_API_KEY holds no key: a key is of printable ASCII") as found:
            key_for(OPENAI_BASE)
        assert "cret" not in str(found.value)
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert key_for(OPENAI_BASE) is None
