"""Requests that are not served: as clients of OpenAI's API expect to be told."""

from typing import Any


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """Why a request is not served; `status` is HTTP's. The message is all that its sender needs to put it right."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """`param` is the field that is wrong, and `retry_after` the seconds after which to ask again."""
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def kind(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
