"""What is checked before a release.

    nox                                        # all of it
    nox -s demo                                # a real app on SQLite, driven over HTTP
    nox -s tests-3.12 -- --driver asyncpg      # one Python, one driver
    nox -s tests-3.12 -- tests/test_urls.py    # whatever pytest understands
    nox -s faults-3.12 -- --times 20           # what is killed, cut off or cancelled, 20 times
    nox -s bank -- --seconds 60 --seed 3       # money under faults, on every database
    nox -s compliance -- -k Reflection         # some of SQLAlchemy's own tests of dialects
    nox -s examples                            # the applications in examples/, over HTTP
    nox -l                                     # the names of all sessions

Only Pythons that this machine has are used; one that is missing is named at the start.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"  # uv where the machine has it: it is quicker

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/pyproject.toml"))
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
MAIN = "3.12"  # the one that measures coverage


def find_python(version: str) -> Path | None:
    """Return a Python of this version from the PATH or from pyenv, which may not be set up."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    for candidate in candidates:
        # A shim of pyenv may be there, and fail.
        found = subprocess.run(
            [candidate, "-c", "import ssl, sqlite3, venv, sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return Path(found.stdout.strip())
    return None


def offer_pythons() -> list[str]:
    """Put each Python on the PATH under its plain name; return the versions found."""
    directory = ROOT / ".nox" / ".pythons"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    found = []
    for version in SUPPORTED:
        if python := find_python(version):
            (directory / f"python{version}").symlink_to(python)
            found.append(version)
    os.environ["PATH"] = os.pathsep.join([str(directory), os.environ.get("PATH", os.defpath)])
    return found


# The tests start hundreds of processes, each of which would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("UV_COMPILE_BYTECODE", "1")  # pip does so by itself

PYTHONS = offer_pythons()
MISSING = [version for version in SUPPORTED if version not in PYTHONS]
if MISSING and "_ARGCOMPLETE" not in os.environ:
    print(f"NOT TESTED: Python {', '.join(MISSING)} not found on this machine", file=sys.stderr)
if MAIN not in PYTHONS:
    MAIN = PYTHONS[-1]
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]

# Half of the time, a test waits: for a server, for another process. Who has none left takes over
# from the others, as the slow ones come together.
PROCESSES = (f"--numprocesses={min(2 * (os.cpu_count() or 1), 8)}", "--dist=worksteal")

# The tests of faults take minutes, and run with the newest of everything, beside those that measure
# coverage; under it, those with many processes would starve each other. What older drivers and
# Python 3.11 do when they are cancelled is their own affair: see docs/reliability.md.
WITHOUT_FAULTS = ("-m", "not faults")
WITHOUT_CROWD = ("-m", "not crowd")

# What is quick comes first, and the coverage after the tests that measure it.
nox.options.sessions = [
    "lint",
    "types",
    "docs",
    "build",
    "demo",
    "examples",
    f"tests-{MAIN}",
    "coverage",
    "crowd",
    "tests-min",  # on the oldest Python
    "tests-sa20",  # on the newest
    "compliance",
    *(f"tests-{version}" for version in PYTHONS if version not in (OLDEST, MAIN, NEWEST)),
]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the newest versions of everything."""
    install(session, "test", "openapi", extras="all")
    if session.python == MAIN:
        session.run("coverage", "erase")
        session.run("coverage", "run", "-m", "pytest", *WITHOUT_CROWD, *pytest_arguments(session))
    else:
        session.run("pytest", *WITHOUT_FAULTS, *pytest_arguments(session))


@nox.session(name="tests-min", python=OLDEST)
def tests_min(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    lowest = lowest_versions()
    session.log("lowest versions: %s", " ".join(lowest))
    install(session, "test", *lowest, extras="all")
    # Schemathesis excludes them; what it sends, an app is sent by test_hostile_input.py, too.
    ignored = "--ignore=tests/test_hostile_openapi.py"
    session.run("pytest", *WITHOUT_FAULTS, ignored, *pytest_arguments(session))


@nox.session(name="tests-sa20", python=NEWEST)
def tests_sa20(session: nox.Session) -> None:
    """Run the tests with the newest SQLAlchemy 2.0, which many apps stay on, and all else new."""
    install(session, "test", "openapi", "sqlalchemy<2.1", extras="all")
    session.run("pytest", *WITHOUT_FAULTS, *pytest_arguments(session))


@nox.session(python=MAIN)
@nox.parametrize("version", ["newest", "sa20", "lowest"], ids=["newest", "sa20", "lowest"])
def compliance(session: nox.Session, version: str) -> None:
    """Run SQLAlchemy's own tests of dialects on ours, and on the one that it is built on."""
    requirements = {
        "newest": ["sqlalchemy"],
        "sa20": ["sqlalchemy<2.1"],
        "lowest": [pin for pin in lowest_versions() if pin.startswith("sqlalchemy")],
    }
    session.install(".", *group("compliance"), *requirements[version])
    session.run("python", "tests_dialect", *session.posargs)


@nox.session(python=MAIN)
def coverage(session: nox.Session) -> None:
    """Report what the tests of this run have covered."""
    session.install("coverage>=7.10")
    session.run("coverage", "combine", "--keep")
    session.run("coverage", "report")


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """Check the types, as two type checkers see them."""
    theirs = [one for example in EXAMPLES for one in requirements_of(example)[1]]
    install(session, "types", "nox", *theirs, extras="all,testing")
    session.run("mypy")
    session.run("pyright")
    for example in EXAMPLES:
        with session.chdir(ROOT / "examples" / example):
            session.run("mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), ".")


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Build the documentation; a broken link or a reference to nothing is an error."""
    install(session, "docs", extras="all")
    session.run(
        "sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "docs", "docs/_build"
    )


@nox.session(python=MAIN)
def build(session: nox.Session) -> None:
    """Build the packages, look into them, and use each extra in an environment of its own."""
    session.install(*group("build"))
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    look_into(session, wheel)
    for package in (wheel, sdist):
        smoke_test(session, package, "")
    for extra in EXTRAS:
        smoke_test(session, wheel, extra)


@nox.session(python=MAIN)
def demo(session: nox.Session) -> None:
    """Run a real app and drive it over HTTP; `nox -s demo -- --url postgresql://…` elsewhere."""
    session.install(".[all]" if session.posargs else ".[cli]")
    with session.chdir(session.create_tmp()):
        session.run("fastdb", "demo", *session.posargs)


@nox.session(python=MAIN)
@nox.parametrize("example", EXAMPLES, ids=EXAMPLES)
def examples(session: nox.Session, example: str) -> None:
    """Run an application of examples/ as somebody who has copied it: with what it asks for."""
    extras, theirs = requirements_of(example)
    install(session, "openapi", *theirs, extras=extras)
    session.run("python", "-W", "error", "tests_examples", example, *session.posargs)


@nox.session(python=MAIN)
def bench(session: nox.Session) -> None:
    """Compare the speed with other libraries; `nox -s bench -- sqlite` and more: see its README."""
    install(session, "test", "bench", extras="all")
    told = try_peers(session, "fastapi-sqla")
    session.run(
        "python",
        "benchmarks",
        *(session.posargs or ["peers"]),
        env={"FASTDB_BENCHMARK_NOT_INSTALLED": str(told)},
    )


@nox.session(name="bench-quick", python=MAIN)
def bench_quick(session: nox.Session) -> None:
    """Compare with plain SQLAlchemy and with the run on record; fail where fastdb is slower."""
    install(session, "test", extras="all")
    session.run("python", "benchmarks", "quick", *session.posargs)


@nox.session(python=PYTHONS[PYTHONS.index(MAIN) :])
def faults(session: nox.Session) -> None:
    """Run the tests of faults alone; `nox -s faults-3.12 -- --times 20` so often."""
    arguments = list(session.posargs)
    times = 1
    if "--times" in arguments:
        at = arguments.index("--times")
        times = int(arguments[at + 1])
        del arguments[at : at + 2]
    install(session, "test", "openapi", extras="all")
    for number in range(1, times + 1):
        session.log("run %d of %d", number, times)
        session.run("pytest", "-m", "faults", *PROCESSES, *arguments)


@nox.session(python=MAIN)
def crowd(session: nox.Session) -> None:
    """Run those tests of faults that have many processes."""
    install(session, "test", "openapi", extras="all")
    session.run("pytest", "-m", "crowd", *pytest_arguments(session))


@nox.session(python=MAIN)
def bank(session: nox.Session) -> None:
    """Move money under faults for long; `nox -s bank -- --seconds 60`: see CONTRIBUTING."""
    install(session, "test", extras="all")
    session.run("python", "-m", "bank", *session.posargs, env={"PYTHONPATH": str(ROOT / "tests")})


def install(session: nox.Session, *requirements: str, extras: str) -> None:
    """Install fastdb as users have it, not editable, with groups of ours or requirements."""
    groups = PYPROJECT["dependency-groups"]
    wanted = [
        entry for name in requirements for entry in (group(name) if name in groups else [name])
    ]
    session.install(f".[{extras}]", *wanted)


def requirements_of(example: str) -> tuple[str, list[str]]:
    """Return the extras of fastdb that an example asks for, and its other requirements."""
    project = nox.project.load_toml(ROOT / "examples" / example / "pyproject.toml")
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    ours = re.compile(r"fastapi-fastdb(?:\[(?P<extras>[\w,-]+)])?")
    found = [match for one in wanted if (match := ours.match(one))]
    extras = ",".join(match["extras"] for match in found if match["extras"])
    return extras, [one for one in wanted if not ours.match(one)]


def try_peers(session: nox.Session, *packages: str) -> Path:
    """Install the newest version of what may not fit the others; return the file that says why not.

    It must not change the others, which are to be today's.
    """
    installer = ("uv", "pip") if session.venv_backend == "uv" else ("python", "-m", "pip")
    show = "from importlib.metadata import version; print(version('{}'))"
    pins = [
        f"{name}=={str(session.run('python', '-c', show.format(name), silent=True)).strip()}"
        for name in ("fastapi", "sqlalchemy")
    ]
    told = {}
    for package in packages:
        command = [*installer, "install", package, *pins]
        said = str(session.run(*command, success_codes=[0, 1], silent=True, external=True))
        # What pip and uv say where two requirements exclude each other.
        lines = [line.strip() for line in said.splitlines() if "conflict" in line]
        if lines:
            told[package] = " ".join(lines)
    path = Path(session.create_tmp()) / "not-installed.json"
    path.write_text(json.dumps(told))
    return path


def pytest_arguments(session: nox.Session) -> list[str]:
    """Return what is asked for; or two processes for each core, and who was slow."""
    return session.posargs or [*PROCESSES, "--durations=15"]


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of a dependency group."""
    return nox.project.dependency_groups(PYPROJECT, name)


def lowest_versions() -> list[str]:
    """Turn the lower bounds of pyproject.toml into pins."""
    bounds = [
        *PYPROJECT["project"]["dependencies"],
        *(one for extra in EXTRAS.values() for one in extra),
    ]
    pins = (re.match(r"([\w.-]+)(?:\[[\w,-]+])?>=([\w.]+)", bound) for bound in bounds)
    return sorted({f"{pin[1]}=={pin[2]}" for pin in pins if pin})


def look_into(session: nox.Session, wheel: Path) -> None:
    """Fail where the wheel lacks what type checkers and lawyers look for."""
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("fastdb/py.typed", "/licenses/LICENSE"):
        if not any(name.endswith(wanted) for name in names):
            session.error(f"{wheel.name} has no {wanted}")
    ours = ("fastdb/", "fastapi_fastdb-", "pytest_fastdb.py")
    if "pytest_fastdb.py" not in names:
        session.error(f"{wheel.name} has no plugin for pytest")
    if foreign := [name for name in names if not name.startswith(ours)]:
        session.error(f"{wheel.name} would install {foreign}")


def smoke_test(session: nox.Session, package: Path, extra: str) -> None:
    """Use the package in an empty environment: outside this directory, so that nothing helps."""
    session.log("smoke test: %s[%s]", package.name, extra)
    directory = Path(session.create_tmp()) / "smoke"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    python = directory / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    requirement = f"{package}[{extra}]" if extra else str(package)
    if session.venv_backend == "uv":
        make: tuple[str, ...] = ("uv", "venv", "--quiet", "--python", f"{session.bin}/python")
        install: tuple[str, ...] = ("uv", "pip", "install", "--quiet", "--python", str(python))
    else:
        make = ("python", "-m", "venv")
        install = (str(python), "-m", "pip", "install", "--quiet")
    session.run(*make, str(directory / "venv"), external=True)
    session.run(*install, requirement, external=True, env={"UV_COMPILE_BYTECODE": "0"})
    session.run(str(python), "-I", str(ROOT / "tests" / "smoke.py"), extra, external=True)
