"""What `python benchmarks sqlite` understands."""

import sys
from collections.abc import Sequence
from importlib import import_module

_DEFAULT = "speed"
_COMMANDS = {
    "speed": "throughput and latency of all candidates (the default)",
    "loop": "for how long reads hold the event loop",
    "stream": "how much memory a million streamed rows need",
    "pools": "how many connections a file should have",
    "profile": "where the time of one request goes",
}
_INTERNAL = ("client", "server")  # the processes that `over_http` starts


def run(arguments: Sequence[str]) -> None:
    name, rest = _DEFAULT, arguments
    if arguments and not arguments[0].startswith("-"):
        name, rest = arguments[0], arguments[1:]
    if name not in _COMMANDS and name not in _INTERNAL:
        known = "\n".join(f"  {command:8} {what}" for command, what in _COMMANDS.items())
        sys.exit(f"benchmarks sqlite: no command {name!r}; there are\n{known}")
    import_module(f"sqlite.{name}").main(rest)
