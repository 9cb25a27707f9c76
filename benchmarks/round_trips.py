"""How often one request waits for the server, counted by a proxy before it.

On this machine a round trip is almost free. In production it is half a millisecond or more, and
so much more than what the tables of time can show.
"""

import sys
from collections.abc import Sequence

from apps import calls_of, open_apps
from targets import TESTS, Target
from workloads import Workload

# psycopg prepares a statement when it is executed for the sixth time.
_WARM_UP_REQUESTS = 8


async def count_round_trips(
    target: Target, workloads: Sequence[Workload]
) -> dict[tuple[str, str], int]:
    """Return the round trips of one request by workload and candidate; nothing for SQLite."""
    if target.backend == "sqlite":
        return {}
    sys.path.append(str(TESTS))
    from proxy import Proxy

    counts = {}
    async with (
        Proxy.before(target.new_url()) as proxy,
        open_apps(target, reach=lambda _url: proxy.url) as apps,
    ):
        for workload in workloads:
            for name, call in calls_of(workload, apps).items():
                for _ in range(_WARM_UP_REQUESTS):
                    await call()
                with proxy.counted() as count:
                    await call()
                counts[workload.name, name] = count.round_trips
    return counts
