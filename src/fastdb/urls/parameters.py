"""A URL's parameters, checked and handed to the driver in its own words."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdb.errors import InvalidURL
from fastdb.urls.values import Reader

Give = Callable[[str, Any, str], Mapping[str, Any]]
"""Takes a parameter's name, its value and the driver's name, gives the driver's arguments."""

ELSEWHERE = "Arguments for the driver itself go into connect_args={…}."


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a URL: how its text is read, and what each driver is given for it.

    A driver that is not in `give` has no equivalent, and the parameter is refused there.
    """

    read: Reader
    give: Mapping[str, Give] = field(default_factory=dict[str, Give])


def as_named(name: str, value: Any, driver: str) -> Mapping[str, Any]:
    """Give the driver an argument of the parameter's own name."""
    return {name: value}


def as_argument(argument: str) -> Give:
    """Give the driver an argument of another name."""
    return lambda name, value, driver: {argument: value}


def dropped(name: str, value: Any, driver: str) -> Mapping[str, Any]:
    """Give the driver nothing, because nothing is what the parameter means there."""
    return {}


def dropped_if(*harmless: Any, otherwise: str = "") -> Give:
    """Give the driver nothing for values that it obeys anyway, and refuse the others."""

    def give(name: str, value: Any, driver: str) -> Mapping[str, Any]:
        if value in harmless:
            return {}
        raise no_equivalent(name, driver, otherwise)

    return give


def no_equivalent(name: str, driver: str, remedy: str = "") -> InvalidURL:
    """Make the error for a parameter that the driver in use cannot obey."""
    return InvalidURL(
        f"URL parameter {name!r} has no equivalent in {driver}; {remedy or 'remove it'}."
    )


@dataclass(slots=True)
class Query:
    """The parameters of one URL; each is taken out by whoever understands it."""

    backend: str
    left: dict[str, list[str]] = field(repr=False)

    def take(self, name: str) -> str | None:
        """Take out a parameter that may be given once.

        Raises:
            InvalidURL: It is given several times.
        """
        texts = self.left.pop(name, [])
        if len(texts) > 1:
            raise InvalidURL(
                f"URL parameter {name!r} is given {len(texts)} times; keep one of them."
            )
        return texts[0] if texts else None

    def take_one_of(self, *names: str) -> tuple[str, str] | None:
        """Take out a parameter that has several names, under whichever is used.

        Raises:
            InvalidURL: It is given several times.
        """
        found = [(name, text) for name in names if (text := self.take(name)) is not None]
        if len(found) > 1:
            given = " and ".join(repr(name) for name, _ in found)
            raise InvalidURL(f"URL parameters {given} say the same thing; keep one of them.")
        return found[0] if found else None

    def take_all(self, name: str) -> list[str]:
        """Take out a parameter that may be repeated."""
        return self.left.pop(name, [])

    def read(self, name: str, reader: Reader) -> Any:
        """Take out a parameter and read its value; None where it is not given."""
        text = self.take(name)
        return None if text is None else reader(name, text)


def gather(backend: str, pairs: Iterable[tuple[str, str]], aliases: Mapping[str, str]) -> Query:
    """Gather the parameters of a URL under their first names."""
    left: dict[str, list[str]] = {}
    for name, text in pairs:
        left.setdefault(aliases.get(name, name), []).append(text)
    return Query(backend, left)


def translate(
    query: Query,
    driver: str,
    *,
    known: Mapping[str, Parameter],
    refused: Mapping[str, str],
    other_names: Iterable[str],
) -> dict[str, Any]:
    """Turn the parameters that are left into arguments for the driver.

    Args:
        query: The parameters; none is left afterwards.
        driver: The driver in use.
        known: The parameters of this kind of database.
        refused: Parameters that cannot be obeyed, each with the reason and the remedy.
        other_names: Parameters that were taken out before, to be suggested for a typing error.

    Raises:
        InvalidURL: One is unknown, is refused, has a value that cannot be used, has no equivalent
            in the driver, or contradicts another.
    """
    arguments: dict[str, Any] = {}
    given_by: dict[str, str] = {}
    for name in list(query.left):
        if name in refused:
            raise InvalidURL(f"URL parameter {name!r} cannot be used: {refused[name]}.")
        parameter = known.get(name)
        if parameter is None:
            raise _unknown(name, query.backend, [*known, *other_names])
        value = query.read(name, parameter.read)
        if driver not in parameter.give:
            others = ", ".join(parameter.give)
            raise no_equivalent(name, driver, f"remove it, or name a driver that has ({others})")
        _merge(arguments, parameter.give[driver](name, value, driver), name, given_by)
    return arguments


def _merge(
    arguments: dict[str, Any], new: Mapping[str, Any], name: str, given_by: dict[str, str]
) -> None:
    for argument, value in new.items():
        if isinstance(value, Mapping):
            _merge(arguments.setdefault(argument, {}), value, name, given_by)
            continue
        if argument in arguments and arguments[argument] != value:
            raise InvalidURL(
                f"URL parameters {given_by[argument]!r} and {name!r} contradict each other:"
                f" both set {argument!r}; keep one of them."
            )
        arguments[argument] = value
        given_by[argument] = name


def _unknown(name: str, backend: str, names: Iterable[str]) -> InvalidURL:
    # What stands where a name should be may be the end of a password.
    if not re.fullmatch(r"[A-Za-z_][\w.-]{0,39}", name):
        return InvalidURL(
            f"The URL has a parameter whose name is not a word; {backend} has none like it."
            f" If a password holds '?' or '&', write %3F or %26. {ELSEWHERE}"
        )
    close = difflib.get_close_matches(name.lower(), sorted(set(names)), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "remove it."
    return InvalidURL(f"Unknown URL parameter {name!r} for {backend}; {hint} {ELSEWHERE}")
