"""The European Central Bank's daily reference rates.

https://data.ecb.europa.eu/help/api/data
"""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated

import httpx
from fastapi import Depends, Request

NOT_FOUND = 404
PLAUSIBLE = (Decimal("0.0001"), Decimal(10) ** 8)
_COLUMNS = ("CURRENCY", "TIME_PERIOD", "OBS_VALUE")


class RatesUnavailable(Exception):
    """The European Central Bank did not answer, or not with rates."""


@dataclass(frozen=True, slots=True)
class DailyRate:
    """How many of a currency one euro bought on a day."""

    currency: str
    day: date
    per_euro: Decimal


class ECB:
    """The bank's data service.

    Args:
        client: With the address of the service.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def daily_rates(self, currencies: Collection[str], since: date) -> list[DailyRate]:
        """Fetch the rates of these currencies from a day on. There are none on some days.

        Raises:
            RatesUnavailable: It did not answer, or not with rates.
        """
        try:
            answer = await self._client.get(
                f"/service/data/EXR/D.{'+'.join(sorted(currencies))}.EUR.SP00.A",
                params={"startPeriod": since.isoformat(), "format": "csvdata"},
            )
            if answer.status_code == NOT_FOUND:  # what it says when there is nothing new
                return []
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise RatesUnavailable(f"{type(error).__name__} from the ECB") from error
        return _read(answer.text, currencies)


def _read(text: str, asked_for: Collection[str]) -> list[DailyRate]:
    rows = csv.DictReader(text.splitlines())
    try:
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            raise RatesUnavailable("The ECB's answer is not in the format that is known.")
        rates = [_rate(row) for row in rows if row["OBS_VALUE"]]  # there is none on a holiday
    except (csv.Error, TypeError, ValueError, InvalidOperation) as error:
        raise RatesUnavailable("The ECB's answer has a rate that is none.") from error
    if not {rate.currency for rate in rates} <= set(asked_for):
        raise RatesUnavailable("The ECB's answer has a currency that was not asked for.")
    return rates


def _rate(row: dict[str, str]) -> DailyRate:
    currency, day, value = (row[name] for name in _COLUMNS)
    rate = Decimal(value)
    if not PLAUSIBLE[0] <= rate <= PLAUSIBLE[1]:
        raise ValueError(value)
    return DailyRate(currency, date.fromisoformat(day), rate)


def get_ecb(request: Request) -> ECB:
    """Return the one that the lifespan has made."""
    ecb: ECB = request.app.state.ecb
    return ecb


ECBDep = Annotated[ECB, Depends(get_ecb)]
