"""The language model, behind an OpenAI-compatible endpoint. Nothing in here knows the database."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from openai import AsyncOpenAI, OpenAI, OpenAIError
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from reports.config import LLMSettings
from reports.models import TEXT_LENGTH

logger = logging.getLogger(__name__)

INSTRUCTION = "Sum up the article in two sentences."
LONGEST_ANSWER = 300  # tokens


@dataclass(frozen=True, slots=True)
class Summary:
    """What the model has made of an article, and what it cost."""

    article_id: int
    text: str
    tokens: int


class Summarizer:
    """Sums up many articles at the same time; to be entered, and left when the app ends."""

    def __init__(self, settings: LLMSettings) -> None:
        self._model = settings.model
        self._client = AsyncOpenAI(
            base_url=settings.url,
            api_key=settings.api_key.get_secret_value(),
            timeout=settings.timeout,
        )
        self._free = asyncio.Semaphore(settings.parallel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def summarize(self, articles: Sequence[tuple[int, str]]) -> list[Summary]:
        """Return the summaries of those articles that the model has answered for."""
        # A task group: when the client has gone, no call goes on.
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(self._try(*article)) for article in articles]
        return [summary for call in calls if (summary := call.result())]

    async def _try(self, article_id: int, body: str) -> Summary | None:
        async with self._free:
            try:
                completion = await self._client.chat.completions.create(
                    model=self._model,
                    messages=_messages(body),
                    max_completion_tokens=LONGEST_ANSWER,
                )
            except OpenAIError as error:
                logger.warning("Article %s was not summed up: %s", article_id, error)
                return None
        return _summary(article_id, completion)


class SyncSummarizer:
    """Sums up one article after the other, for `def` endpoints."""

    def __init__(self, settings: LLMSettings) -> None:
        self._model = settings.model
        self._client = OpenAI(
            base_url=settings.url,
            api_key=settings.api_key.get_secret_value(),
            timeout=settings.timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def summarize(self, articles: Sequence[tuple[int, str]]) -> list[Summary]:
        """Return the summaries of those articles that the model has answered for."""
        calls = (self._try(*article) for article in articles)
        return [summary for summary in calls if summary]

    def _try(self, article_id: int, body: str) -> Summary | None:
        try:
            completion = self._client.chat.completions.create(
                model=self._model,
                messages=_messages(body),
                max_completion_tokens=LONGEST_ANSWER,
            )
        except OpenAIError as error:
            logger.warning("Article %s was not summed up: %s", article_id, error)
            return None
        return _summary(article_id, completion)


def _messages(body: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": body}]


def _summary(article_id: int, completion: ChatCompletion) -> Summary:
    # MySQL refuses what is longer than its column; by now it has been paid for.
    text = (completion.choices[0].message.content or "")[:TEXT_LENGTH]
    tokens = completion.usage.total_tokens if completion.usage else 0
    return Summary(article_id, text, tokens)
