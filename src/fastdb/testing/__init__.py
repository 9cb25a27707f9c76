"""A test kit: users' tests on a real database, isolated and fast.

With pytest, and a setting that says where the app is, there are fixtures: `client`, `session` and
others (`fastdb.testing.plugin`). What is here works without them too. Private servers are in
`fastdb.testing.servers`.
"""

from fastdb.testing.bind import bind
from fastdb.testing.callbacks import captured_on_commit
from fastdb.testing.faults import fail_commit, full_pool, full_sync_pool, time_out_query
from fastdb.testing.queries import assert_no_n_plus_one, assert_query_count, count_queries
from fastdb.testing.responsive import EventLoopHeld, responsive_loop
from fastdb.testing.rollbacks import rolled_back
from fastdb.testing.unawaited import NeverAwaited, all_awaited

__all__ = [
    "EventLoopHeld",
    "NeverAwaited",
    "all_awaited",
    "assert_no_n_plus_one",
    "assert_query_count",
    "bind",
    "captured_on_commit",
    "count_queries",
    "fail_commit",
    "full_pool",
    "full_sync_pool",
    "responsive_loop",
    "rolled_back",
    "time_out_query",
]
