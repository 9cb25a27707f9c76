"""What a statement would do to the transaction around a test, as far as its text tells."""

import re

# Leading comments are part of the text that somebody may have put there with `prefix_with`.
_START = r"\s*(?:(?:--[^\n]*\n|/\*(?:(?!\*/).)*\*/)\s*)*\(*\s*"
_READS = re.compile(
    _START + r"(?:(?:SELECT|VALUES|TABLE|SHOW|EXPLAIN|DESCRIBE|DESC|WITH)(?!\w)"
    r"|PRAGMA\s+[\w.]+(?:\s*(?:;|\Z)|(?<=_info|_list)\s*\(|(?<=_xinfo|_check)\s*\())",
    re.IGNORECASE | re.DOTALL,
)
_WRITES_INSIDE = re.compile(
    r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE|INTO)\b(?!\s*\()"
    r"|\bFOR\s+(?:NO\s+KEY\s+UPDATE|KEY\s+SHARE|SHARE)\b|\bLOCK\s+IN\s+SHARE\s+MODE\b",
    re.IGNORECASE,
)
_ENDS_TRANSACTION = re.compile(
    _START + r"(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION|XA"
    r"|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b))(?!\w)",
    re.IGNORECASE | re.DOTALL,
)
# https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
_MYSQL_COMMITS = re.compile(
    _START + r"(?:(?:CREATE|DROP)(?!\s+(?:(?:OR\s+REPLACE\s+)?TEMPORARY|PREPARE)\b)|ALTER|RENAME"
    r"|TRUNCATE|GRANT|REVOKE|(?:UN)?LOCK\s+TABLES?"
    r"|(?:ANALYZE|OPTIMIZE|REPAIR)\s+(?:NO_WRITE_TO_BINLOG\s+|LOCAL\s+)?TABLE|SET\s+PASSWORD"
    r"|SET\s+(?:SESSION\s+|@@(?:SESSION\.)?)?autocommit)(?!\w)",
    re.IGNORECASE | re.DOTALL,
)


def only_reads(statement: str) -> bool:
    """Return whether nothing would have to be undone of it, as far as its text tells.

    A word in a string or a name may make a read look like a write: then others wait for its
    transaction to end, which does no harm.
    """
    return _READS.match(statement) is not None and _WRITES_INSIDE.search(statement) is None


def ends_transaction(statement: str) -> bool:
    """Return whether it begins or ends a transaction, which is not left to text."""
    return _ENDS_TRANSACTION.match(statement) is not None


def commits_on_mysql(statement: str) -> bool:
    """Return whether MySQL commits what is open before it runs it."""
    return _MYSQL_COMMITS.match(statement) is not None
