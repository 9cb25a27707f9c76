"""A server that answers as the ECB's data service does, in its format; the figures are ours."""

import csv
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

COLUMNS = [
    "KEY",
    "FREQ",
    "CURRENCY",
    "CURRENCY_DENOM",
    "EXR_TYPE",
    "EXR_SUFFIX",
    "TIME_PERIOD",
    "OBS_VALUE",
    "OBS_STATUS",
    "OBS_CONF",
    "OBS_PRE_BREAK",
    "OBS_COM",
    "TIME_FORMAT",
    "BREAKS",
    "COLLECTION",
    "COMPILING_ORG",
    "DISS_ORG",
    "DOM_SER_IDS",
    "PUBL_ECB",
    "PUBL_MU",
    "PUBL_PUBLIC",
    "UNIT_INDEX_BASE",
    "COMPILATION",
    "COVERAGE",
    "DECIMALS",
    "NAT_TITLE",
    "SOURCE_AGENCY",
    "SOURCE_PUB",
    "TITLE",
    "TITLE_COMPL",
    "UNIT",
    "UNIT_MULT",
]

CURRENCIES = ("CHF", "GBP", "JPY", "SEK", "USD")

# By day: what one euro bought. The second is a holiday, on which there is no value.
RATES = {
    "2026-03-02": ("0.9401", "0.8532", "171.25", "10.912", "1.0844"),
    "2026-03-03": ("", "", "", "", ""),
    "2026-03-04": ("0.9388", "0.8540", "170.90", "10.870", "1.0901"),
}


def answer_for(currencies: list[str], since: str) -> str:
    """Return the observations as CSV; an empty string where there are none."""
    rows = [
        _observation(currency, day, value)
        for day, values in RATES.items()
        for currency, value in zip(CURRENCIES, values, strict=True)
        if day >= since and currency in currencies
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue() if rows else ""


def _observation(currency: str, day: str, value: str) -> dict[str, str]:
    return {
        "KEY": f"EXR.D.{currency}.EUR.SP00.A",
        "FREQ": "D",
        "CURRENCY": currency,
        "CURRENCY_DENOM": "EUR",
        "EXR_TYPE": "SP00",
        "EXR_SUFFIX": "A",
        "TIME_PERIOD": day,
        "OBS_VALUE": value,
        "OBS_STATUS": "A" if value else "H",
        "OBS_CONF": "F",
        "TIME_FORMAT": "P1D",
        "COLLECTION": "A",
        "DECIMALS": "4",
        "SOURCE_AGENCY": "4F0",
        "TITLE": f"{currency}/Euro ECB reference exchange rate",
        "TITLE_COMPL": f"ECB reference exchange rate, {currency}/Euro, 2.15 pm (C.E.T.)",
        "UNIT": currency,
        "UNIT_MULT": "0",
    }


class ECBServer:
    """It runs in a thread, on a port of this machine.

    Attributes:
        asked: The paths that were asked for.
        was_asked: Set by the first of them.
        status: What it answers with.
        text: What it answers, in place of rates.
        gate: It waits for this before it answers.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.was_asked = threading.Event()
        self.status = 200
        self.text: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        self.asked.append(path)
        self.was_asked.set()
        self.gate.wait(30)
        if self.status != 200 or self.text is not None:
            return self.status, self.text or ""
        parts = urlsplit(path)
        assert parts.path.startswith("/service/data/EXR/D.")
        query = parse_qs(parts.query)
        assert query["format"] == ["csvdata"]
        currencies = parts.path.rpartition("/")[2].split(".")[1].split("+")
        text = answer_for(currencies, query["startPeriod"][0])
        return (200, text) if text else (404, "No results found.")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = server.answer(self.path)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/csv")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Log nothing."""

        return Handler
