"""What may be said of statements and errors: all but values, which may be secrets or people's."""

import re

from sqlalchemy.exc import StatementError

_LENGTH = 200
_HIDDEN = "'…'"
_MARK = "\0"

_COMMENT = r"(?P<comment>--[^\n]*|/\*(?!M?!).*?(?:\*/|\Z){})"
_ESCAPED = r"(?:[^'\\]|''|\\.)*(?:'|\Z)"

# Strings end in another way on each: a backslash and double quotes are MySQL's.
_ON_MYSQL = re.compile(
    "|".join(
        (
            _COMMENT.format(r"|\#[^\n]*"),
            f"(?P<text>'{_ESCAPED}" + r'|"(?:[^"\\]|""|\\.)*(?:"|\Z))',
            r"(?P<name>`[^`]*`)",
        )
    ),
    re.DOTALL,
)
_ELSEWHERE = re.compile(
    "|".join(
        (
            _COMMENT.format(""),
            rf"(?P<text>\b[eE]'{_ESCAPED}|'(?:[^']|'')*(?:'|\Z)|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))",
            r'(?P<name>"[^"]*")',
        )
    ),
    re.DOTALL,
)

# What servers quote in their errors is either a value or a name, which is worth knowing.
_VALUES_IN_ERRORS = (
    re.compile(r"(?<=\bentry )'.*'(?= for key\b)"),
    re.compile(r"(?<=\bnear )'.*'(?= at line \d)"),
    re.compile(r"(?<=\bnear )\"'.*\"$"),
    re.compile(r"(?<=\bvalue: )'.*'(?= for column\b)"),
    re.compile(r"(?<=: )\".*\"$"),
    re.compile(r"(?<=\bvalue )\".*\"(?= is )"),
    re.compile(
        r"(?<!\w)(?<!\b[Tt]able )(?<!\b[Cc]olumn )(?<!\b[Kk]ey )(?<!\bindex )(?<!\bdatabase )"
        r"(?<!\bconstraint )'.*?'(?!\w)"
    ),
)


def readable(statement: str, *, mysql: bool) -> str:
    """Return a statement in one line, without its comments and literals."""
    tokens = _ON_MYSQL if mysql else _ELSEWHERE
    words = " ".join(tokens.sub(_shown, statement).split())
    return words if len(words) <= _LENGTH else words[:_LENGTH] + " …"


# What these quote are names in the revision, such as one whose import autogenerate has left out.
_OF_THE_CODE = (AttributeError, ImportError, NameError)


def reason(error: BaseException) -> str:
    """Say what went wrong in one line, without the values of the rows."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    first = _message(cause).strip().partition("\n")[0].strip().rstrip(".")
    if not isinstance(cause, _OF_THE_CODE):
        for values in _VALUES_IN_ERRORS:
            first = values.sub(_MARK, first)
        first = first.replace(_MARK, _HIDDEN)
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__


def _message(error: BaseException) -> str:
    match error.args:
        case (int(number), str(message)):  # MySQL's; as a tuple it would be in quotes itself
            return f"{number}, {message}"
        case _:
            return str(error)


def _shown(token: re.Match[str]) -> str:
    if token["comment"]:
        return " "
    return _HIDDEN if token["text"] else token[0]
