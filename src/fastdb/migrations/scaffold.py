"""`fastdb init`: a folder for migrations, and Alembic's configuration."""

import importlib
import sys
import tomllib
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData

from fastdb.database import Database
from fastdb.errors import ConfigurationError

_EXAMPLE = "`fastdb init shop.models:db --metadata shop.models:Base.metadata`"

_ENVIRONMENT = '''\
"""What Alembic runs: fastdb connects, locks and checks; more of Alembic's options go into run()."""

{imports}

run({db}, {metadata})
'''

_REVISION = '''\
"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    """Go to this revision."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back to the one before."""
    ${downgrades if downgrades else "pass"}
'''

_TOML = """\
[tool.alembic]
script_location = "%(here)s/{folder}"
prepend_sys_path = ["%(here)s"]
"""

_INI = """\
[{name}]
script_location = %(here)s/{folder}
prepend_sys_path = %(here)s
path_separator = os
"""


def init(
    target: str, metadata: str, *, folder: str = "migrations", name: str | None = None
) -> list[Path]:
    """Make the folder and the configuration, in the working directory.

    Args:
        target: The Database, as "package.module:db".
        metadata: The tables, as "package.module:Base.metadata".
        folder: Where the revisions are to be.
        name: For a second database of the project: the section in alembic.ini, which Alembic's
            command takes as `--name`. Default: the project's only one, in pyproject.toml.

    Returns:
        The files that were written.

    Raises:
        ConfigurationError: `target` or `metadata` cannot be had, or something is there already.
    """
    _check(target, Database)
    _check(metadata, MetaData)
    place = Path(folder)
    if place.is_absolute() or set(folder) & set('%"\\\n'):
        raise ConfigurationError(
            f"--folder {folder!r}: must be a path inside of the working directory, without quotes,"
            " backslashes and '%', which mean something in the configuration."
        )
    if place.exists() and any(place.iterdir()):
        raise ConfigurationError(
            f"The folder {place.absolute()} is there already, and not empty: nothing was written."
            " Choose another one, with --folder."
        )
    configuration, added = _configuration(folder, name)
    files = {
        place / "env.py": _environment(target, metadata),
        place / "script.py.mako": _REVISION,
        configuration: _with(configuration, added),
    }
    (place / "versions").mkdir(parents=True)
    for path, content in files.items():
        path.write_bytes(content.encode())
    return list(files)


def _check(text: str, kind: type) -> None:
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{text!r} is no package.module:attribute. Write it as in {_EXAMPLE}."
        )
    module = _imported(module_name)
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        others = [name for name, value in vars(module).items() if isinstance(value, kind)]
        hint = f" It has {', '.join(f'{module_name}:{other}' for other in others)}." * bool(others)
        raise ConfigurationError(
            f"The module {module_name} ({getattr(module, '__file__', None)}) has no"
            f" {attribute!r}.{hint}"
        ) from None
    if not isinstance(found, kind):
        raise ConfigurationError(
            f"{text} is of type {type(found).__name__}; a {kind.__name__} is wanted there."
        )


def _imported(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ConfigurationError(
            f"The module {name!r} cannot be imported from {here} (sys.path begins with"
            f" {sys.path[0]!r}): {kind}{error}. Run the command in the directory"
            f" that has the package in it, or install the package, and write it as in {_EXAMPLE}."
        ) from error


def _environment(target: str, metadata: str) -> str:
    taken = {"run": "fastdb.migrations"}
    wanted: dict[str, set[str]] = {}
    paths = []
    for module, _, path in (target.partition(":"), metadata.partition(":")):
        name, dot, rest = path.partition(".")
        here = name
        while taken.setdefault(here, module) != module:  # two modules have something of this name
            here = f"{module.rpartition('.')[2]}_{here}"
        wanted.setdefault(module, set()).add(name if here == name else f"{name} as {here}")
        paths.append(here + dot + rest)
    lines = [
        f"from {module} import {', '.join(sorted(names))}"
        for module, names in sorted(wanted.items())
    ]
    imports = "\n".join(["from fastdb.migrations import run", "", *lines])
    return _ENVIRONMENT.format(imports=imports, db=paths[0], metadata=paths[1])


def _configuration(folder: str, name: str | None) -> tuple[Path, str]:
    """Return the file of the configuration, and what is to be added to it."""
    toml, ini = Path("pyproject.toml"), Path("alembic.ini")
    sections = _sections(ini)
    section = name or "alembic"
    if section in sections:
        raise ConfigurationError(
            f"{ini.absolute()} has a section [{section}], which Alembic reads before anything"
            " else: nothing was written. Remove it, or choose another name, with --name."
        )
    posix = Path(folder).as_posix()
    if name is not None:
        return ini, _INI.format(name=name, folder=posix)
    if "alembic" in _tools(toml):
        raise ConfigurationError(
            f"{toml.absolute()} has a table [tool.alembic] already: nothing was written. Remove it;"
            " or, for a second database, give it a name: --name audit --folder audit_migrations."
        )
    return toml, _TOML.format(folder=posix)


def _sections(ini: Path) -> list[str]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(ini)
    except ConfigParserError as error:
        raise _unreadable(ini, error) from error
    return parser.sections()


def _tools(toml: Path) -> dict[str, Any]:
    if not toml.exists():
        return {}
    try:
        tools: dict[str, Any] = tomllib.loads(toml.read_bytes().decode()).get("tool", {})
    except ValueError as error:
        raise _unreadable(toml, error) from error
    return tools


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"What is in {path.absolute()} cannot be read: {error}")


def _with(path: Path, added: str) -> str:
    """Return what is in the file, byte for byte, and what is added at its end."""
    before = path.read_bytes().decode() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    return f"{before}\n{added}" if before else added
