"""The pools of our engines: fair, and they know who has their connections."""

from fastdb.pools.watched import FairQueuePool, WatchedQueuePool, watch_holders, watch_nobody

__all__ = ["FairQueuePool", "WatchedQueuePool", "watch_holders", "watch_nobody"]
