"""A server that answers as OpenAI's does: it repeats what it was asked."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TOKENS = 7
"""What each answer costs."""


class AIServer:
    """It runs in threads, on a port of this machine.

    Attributes:
        asked: What it was asked, in the order in which it came.
        most_at_once: How many waited for an answer at the same time.
        holds: Set when as many wait as were to be held back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def reset(self) -> None:
        """Forget what was asked, and answer at once."""
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._held = ""
        self._wanted = 0
        self.holds = threading.Event()
        self._gate = threading.Event()
        self._gate.set()

    def hold_back(self, prompt: str, wanted: int = 1) -> None:
        """Answer no prompts that begin so, until `let_go`; `holds` is set when so many wait."""
        self._held, self._wanted = prompt, wanted
        self._gate.clear()

    def let_go(self) -> None:
        """Answer."""
        self._gate.set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.let_go()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of an answer."""
        assert path == "/v1/chat/completions"
        prompt = asked["messages"][0]["content"]
        with self._lock:
            self.asked.append(prompt)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            if prompt.startswith(self._held) and self._at_once >= self._wanted:
                self.holds.set()
        if prompt.startswith(self._held):
            self._gate.wait(30)
        with self._lock:
            self._at_once -= 1
        if "FAIL" in prompt:
            return 500, {"error": {"message": "overloaded", "type": "server_error"}}
        text = "a\x00b\ud83d" if "HOSTILE" in prompt else f"<{prompt}>"
        return 200, _completion(asked["model"], text)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                status, answer = server.answer(self.path, json.loads(self.rfile.read(length)))
                body = json.dumps(answer).encode()
                with suppress(ConnectionError):  # who asked may have been killed meanwhile
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Log nothing."""

        return Handler


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": TOKENS - 3, "total_tokens": TOKENS},
    }
