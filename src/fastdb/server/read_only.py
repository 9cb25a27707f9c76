"""MySQL's transactions that only read, where no session state may say so."""

from sqlalchemy import Connection, Engine, event


def begin_read_only(engine: Engine, *, snapshot: bool) -> None:
    """Begin MySQL's transactions read-only, each for itself, without session state.

    Args:
        engine: A variant made by `execution_options()`; the engine it comes from is unchanged.
        snapshot: Let all statements see one consistent view.
    """

    def begin(connection: Connection) -> None:
        if not snapshot:
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
            return
        if connection.default_isolation_level not in ("REPEATABLE READ", "SERIALIZABLE"):
            # Without SESSION: for the next transaction only. Weaker levels have no one view.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    event.listen(engine, "begin", begin)
