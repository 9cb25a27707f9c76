"""The language model: a client that blocks, as many do."""

from dataclasses import dataclass

from openai import OpenAI, OpenAIError


class NoAnswer(Exception):
    """The service has failed, or has nothing to say."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model has said, and what it cost."""

    text: str
    tokens: int


class AI:
    """A language model. Its calls block: from an event loop, call them in a thread."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._client = client
        self._model = model

    def answer(self, prompt: str) -> Answer:
        """Ask and wait.

        Raises:
            NoAnswer: There is none.
        """
        try:
            completion = self._client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": prompt}]
            )
        except OpenAIError as error:
            raise NoAnswer(type(error).__name__) from error
        text = completion.choices[0].message.content if completion.choices else None
        if not text:
            raise NoAnswer("It says nothing.")
        return Answer(_storable(text), completion.usage.total_tokens if completion.usage else 0)


def _storable(text: str) -> str:
    """Leave out what JSON can say and PostgreSQL cannot keep: NUL, and halves of characters."""
    return text.replace("\x00", "").encode(errors="replace").decode()
