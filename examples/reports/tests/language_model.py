"""The stand-in for the language model, as tests see it."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from fastdb.testing.servers import AppServer

EXAMPLE = Path(__file__).parent.parent
SECONDS = 30


class LanguageModel:
    """A server, to be entered, that can hold its answers back."""

    def __init__(self) -> None:
        self._server = AppServer("stand_in:app", directory=EXAMPLE)

    @property
    def url(self) -> str:
        """What `REPORTS_LLM_URL` is to be."""
        return f"{self._server.url}/v1"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    def hold(self) -> None:
        """Answer nobody until `release` is called."""
        self._ask("PUT", "/gate?is_open=false")

    def release(self) -> None:
        """Answer all who wait."""
        self._ask("PUT", "/gate?is_open=true")

    def wait_for(self, number: int) -> None:
        """Return when that many calls wait for an answer.

        Raises:
            TimeoutError: They did not come.
        """
        deadline = time.monotonic() + SECONDS
        while (waiting := self._ask("GET", "/waiting").json()) != number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{waiting} calls wait for the model, not {number}.")
            time.sleep(0.02)

    def _ask(self, method: str, path: str) -> httpx.Response:
        answer = httpx.request(method, self._server.url + path, trust_env=False)
        return answer.raise_for_status()
