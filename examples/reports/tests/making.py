"""What tests send."""

import httpx

from stand_in import REFUSED


def article(number: int, *, body: str | None = None) -> dict[str, str]:
    return {
        "url": f"https://news.example/{number}",
        "title": f"Article {number}",
        "body": f"What happened on day {number}." if body is None else body,
    }


def refused(number: int) -> dict[str, str]:
    return article(number, body=REFUSED)


async def new_report(client: httpx.AsyncClient, *articles: dict[str, str], prefix: str = "") -> str:
    """Make a report with these articles, and return its path."""
    answer = await client.post(f"{prefix}/reports", json={"title": "The week"})
    path = f"{prefix}/reports/{answer.raise_for_status().json()['id']}"
    if articles:
        (await client.post(f"{path}/articles", json=list(articles))).raise_for_status()
    return path
