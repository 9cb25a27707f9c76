"""A parameter's value, from text to the type that a driver wants."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from fastdb.errors import InvalidURL

Reader = Callable[[str, str], Any]
"""Takes a parameter's name and its text, gives its value or raises InvalidURL."""

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


def bad_value(name: str, text: str, expected: str) -> InvalidURL:
    """Make the error for a value that cannot be used."""
    return InvalidURL(f"URL parameter {name}={_shown(text)}: must be {expected}.")


def _shown(text: str) -> str:
    # A value with an at sign may be the end of a password that was not percent-encoded.
    return "…" if "@" in text or len(text) > 60 else repr(text)


def string(name: str, text: str) -> str:
    """Read text, which may not be empty."""
    if not text:
        raise bad_value(name, text, "given a value, or left out")
    return text


def integer(minimum: int | None = None, *, expected: str = "") -> Reader:
    """Make a reader of whole numbers."""
    if not expected:
        expected = "a whole number" if minimum is None else f"a whole number, {minimum} or more"

    def read(name: str, text: str) -> int:
        # Not `int()` in a `try`: the ValueError would stay in the exception's context.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise bad_value(name, text, expected)
        value = int(text)
        if minimum is not None and value < minimum:
            raise bad_value(name, text, expected)
        return value

    return read


def seconds(name: str, text: str) -> float:
    """Read a positive number of seconds."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text) or float(text) == 0:
        raise bad_value(name, text, "a number of seconds above 0")
    return float(text)


def boolean(name: str, text: str) -> bool:
    """Read yes or no, in the spellings that are common in URLs."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise bad_value(name, text, "true or false")


def choice(*allowed: str) -> Reader:
    """Make a reader of one out of several words."""
    return mapped({word: word for word in allowed})


def mapped(values: Mapping[str, Any]) -> Reader:
    """Make a reader of words that stand for values."""

    def read(name: str, text: str) -> Any:
        if text not in values:
            one_of = "" if len(values) == 1 else "one of "
            raise bad_value(name, text, one_of + ", ".join(values))
        return values[text]

    return read


def matching(pattern: str, expected: str) -> Reader:
    """Make a reader of text that a regular expression describes."""

    def read(name: str, text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise bad_value(name, text, expected)
        return text

    return read
