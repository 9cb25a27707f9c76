"""The claims that are made for asynchronous sessions, each tried out in four ways to serve."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from peers import claim_words
from peers.alone import alone
from peers.claim_trial import Trial
from peers.claim_ways import WAYS
from peers.claim_work import make_tables
from peers.parts import Options
from peers.places import Place

NAME = "claims"
TITLE = "The claims"

_DATABASES = ("sqlite", "postgresql")
_BURSTS = 3
_LONG_SECONDS = 4.0  # what takes longer is done once
_PATIENCE_SECONDS = 200.0
_DEFAULT_THREADS = 40


@dataclass(frozen=True)
class Claim:
    """What is said of a number of requests at the same time.

    Attributes:
        name: In the JSON.
        text: The claim.
        requests: At the same time.
        path: Of the request.
        busy: Seconds that one request takes where nobody else is there.
        fast: Seconds that all together are claimed to take, asynchronous.
        slow: The same, synchronous.
        pools: Connections that are tried.
        method: Of the request.
        body: Of the request.
        again: Each client asks again when it is answered, and throughput is what counts.
    """

    name: str
    text: str
    requests: int
    path: str
    busy: float
    fast: float
    slow: float
    pools: tuple[int, ...] = (10,)
    method: str = "GET"
    body: str = ""
    again: bool = False


CLAIMS = (
    Claim(
        "10 of 500 ms",
        "10 requests at once, each with a query of 500 ms: 0.5 s, and 5 s synchronous",
        10, "/query/500", busy=0.5, fast=0.5, slow=5,
    ),
    Claim(
        "100 of 500 ms",
        "100 requests at once, each with a query of 500 ms: 0.6 s, and 50 s synchronous",
        100, "/query/500", busy=0.5, fast=0.6, slow=50, pools=(10, 100),
    ),
    Claim(
        "100 of 100 ms",
        "100 requests at once, each with a query of 100 ms: 0.1 s, and 1 s synchronous",
        100, "/query/100", busy=0.1, fast=0.1, slow=1, pools=(10, 100),
    ),
    Claim(
        "conversions",
        "10 conversions at once: 5 to 10 times the throughput, 50 ms instead of 250 ms,"
        " 30 to 50 % less memory",
        10, "/conversions", busy=0.04, fast=0.05, slow=0.25, method="POST", again=True,
        body=json.dumps({"amount": "99.90", "source": "USD", "target": "CHF"}),
    ),
    Claim(
        "250 ms of queries",
        "10 requests at once with 250 ms of real work, here five queries: 0.25 s, and 0.8 to 2.6 s"
        " where synchronous calls block the event loop",
        10, "/work", busy=0.25, fast=0.25, slow=2.6,
    ),
    Claim(
        "250 ms of Python",
        "The same, where the 250 ms are Python's own",
        10, "/compute", busy=0.25, fast=0.25, slow=2.6,
    ),
)  # fmt: skip


def run(options: Options) -> dict[str, Any]:
    chance = random.Random(0)
    rows = []
    for database in options.databases.names:
        if database not in _DATABASES:
            continue
        for claim in CLAIMS:
            trials = _trials(claim, options.seconds)
            for trial in chance.sample(trials, len(trials)):
                url = options.databases.new_url(database)
                make_tables(Place(url))
                arguments = asdict(replace(trial, url=url))
                found = alone("peers.claim_trial:measure", arguments, seconds=_PATIENCE_SECONDS)
                setup = {"way": trial.way, "pool": trial.pool, "threads": trial.threads}
                rows.append({"database": database, "claim": claim.name, **setup, **found})
    return {"claims": [asdict(claim) for claim in CLAIMS], "rows": rows}


def render(found: Mapping[str, Any]) -> str:
    return claim_words.table(found["claims"], found["rows"], list(WAYS))


def _trials(claim: Claim, seconds: float) -> list[Trial]:
    return [
        _trial(claim, way, pool, threads, seconds)
        for way in WAYS
        for pool, threads in _setups(claim, way)
    ]


def _setups(claim: Claim, way: str) -> list[tuple[int, int]]:
    """Return pools and threads: those that each way can make something of."""
    if way == "blocking-in-async":
        return [(claim.pools[0], _DEFAULT_THREADS)]  # it never has two at the same time
    setups = [(pool, _DEFAULT_THREADS) for pool in claim.pools]
    if way == "synchronous" and claim.requests > _DEFAULT_THREADS:
        setups.append((claim.pools[-1], claim.requests))
    return setups


def _trial(claim: Claim, way: str, pool: int, threads: int, seconds: float) -> Trial:
    at_once = claim_words.at_once(way, pool, threads, claim.requests)
    expected = claim.busy * -(-claim.requests // at_once)
    return Trial(
        way=way,
        url="",
        pool=pool,
        threads=threads,
        requests=claim.requests,
        method=claim.method,
        path=claim.path,
        body=claim.body,
        status=201 if claim.method == "POST" else 200,
        bursts=0 if claim.again else 1 if expected > _LONG_SECONDS else _BURSTS,
        seconds=max(1.0, seconds),
    )
