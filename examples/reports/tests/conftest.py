"""The language model is a server of its own here, too."""

from collections.abc import Iterator

import pytest
from language_model import LanguageModel


@pytest.fixture(scope="session", autouse=True)
def stand_in() -> Iterator[LanguageModel]:
    """Start the model's stand-in before the app, whose lifespan reads where it is."""
    with LanguageModel() as stand_in, pytest.MonkeyPatch.context() as environment:
        environment.setenv("REPORTS_LLM_URL", stand_in.url)
        yield stand_in


@pytest.fixture
def model(stand_in: LanguageModel) -> Iterator[LanguageModel]:
    """The model, whose answers can be held back."""
    yield stand_in
    stand_in.release()


@pytest.fixture(params=["", "/sync"], ids=["async", "sync"])
def prefix(request: pytest.FixtureRequest) -> str:
    """The version of the endpoints."""
    prefix: str = request.param
    return prefix
