"""What breaks, when, and for how long: all of it comes from the seed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

LONGEST_SECONDS = 3.0
SHORTEST_SECONDS = 0.1


class Kind(StrEnum):
    """What can happen."""

    SERVER_KILLED = "server killed"
    SERVER_PAUSED = "server paused"
    NETWORK_DEAF = "network deaf"  # what is sent arrives, but late
    NETWORK_CUT = "network cut"  # what is sent is lost, and then the connections break
    ANSWER_LOST = "answer lost"  # as before, from the moment that a COMMIT is answered
    APP_KILLED = "app killed"
    APP_PAUSED = "app paused"


ON_A_SERVER = (
    Kind.SERVER_KILLED,
    Kind.SERVER_PAUSED,
    Kind.NETWORK_DEAF,
    Kind.NETWORK_CUT,
    Kind.ANSWER_LOST,
    Kind.APP_KILLED,
)
ON_A_FILE = (Kind.APP_KILLED, Kind.APP_PAUSED)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens once.

    Attributes:
        kind: What.
        after_seconds: How long all is well before it.
        lasts_seconds: How long it goes on, until somebody begins to mend it.
        victim: Which one, where there are several; any whole number.
    """

    kind: Kind
    after_seconds: float
    lasts_seconds: float
    victim: int


def schedule(kinds: Sequence[Kind], *, seconds: float, seed: int) -> tuple[Fault, ...]:
    """Return faults for this time, each kind once before any of them comes again.

    What it takes to mend them comes on top. Each kind occurs at least once, however short the time.
    """
    random = Random(seed)  # noqa: S311 - it is to be foreseen
    longest = max(seconds / len(kinds) - SHORTEST_SECONDS, 2 * SHORTEST_SECONDS)
    longest = min(longest, LONGEST_SECONDS)
    faults: list[Fault] = []
    while len(faults) < len(kinds) or _length(faults) < seconds:
        for kind in random.sample(kinds, len(kinds)):
            after, lasts = (random.uniform(SHORTEST_SECONDS, longest) for _ in range(2))
            faults.append(Fault(kind, after, lasts, random.randrange(100)))
            if len(faults) >= len(kinds) and _length(faults) >= seconds:
                break
    return tuple(faults)


def _length(faults: Sequence[Fault]) -> float:
    return sum(fault.after_seconds + fault.lasts_seconds for fault in faults)
