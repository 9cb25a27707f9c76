"""MIGRATING.md: its code works, and is that of the app."""

import re
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from language_model import LanguageModel
from making import article, new_report

EXAMPLE = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n# (?P<file>\S+)\n(?P<code>.*?)```", re.DOTALL)
BLOCKS = [
    (block["file"], block["code"])
    for block in BLOCK.finditer((EXAMPLE / "MIGRATING.md").read_text())
]
BEFORE, *EXCERPTS = BLOCKS


@pytest.mark.parametrize(("file", "code"), EXCERPTS)
def test_excerpt_is_what_the_file_says(file: str, code: str) -> None:
    """Nobody learns from code that has changed since."""
    assert code in (EXAMPLE / file).read_text()


@pytest.mark.fastdb(isolation="database")
async def test_app_before_works(
    client: httpx.AsyncClient,
    database_url: str,
    stand_in: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is what many apps look like, and not made to fail."""
    path = await new_report(client, article(1), article(2))
    monkeypatch.setenv("BEFORE_DATABASE_URL", re.sub(r"^mysql[^:]*", "mysql+pymysql", database_url))
    before: dict[str, object] = {"__name__": "before"}
    exec(compile(BEFORE[1], "before.py", "exec"), before)  # noqa: S102 - our own guide's
    with TestClient(before["app"]) as plain:  # type: ignore[arg-type]
        assert plain.post(f"{path}/summaries").json() == 2
    before["client"].close()  # type: ignore[attr-defined]
    before["engine"].dispose()  # type: ignore[attr-defined]
    summed_up = (await client.get(f"{path}/articles")).json()
    assert all("In short:" in each["summary"] for each in summed_up)
