"""The tests in several environments: `nox` runs all, `nox -s tests-3.11` one."""

import re
import tomllib
from pathlib import Path

import nox

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
ARVIZ = {"3.11": "arviz>=0.23,<1", "3.12": "arviz>=1,<2"}


@nox.session(python=["3.11", "3.12"])
def tests(session: nox.Session) -> None:
    """Python 3.11 with ArviZ 0.23, Python 3.12 with ArviZ 1.x."""
    session.install(".[test]", ARVIZ[str(session.python)])
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The lowest version of every dependency that pyproject.toml admits.

    BlackJAX, of the extra `test`, needs a later JAX; so some files of tests run, without that extra.
    """
    pinned = [re.sub(r">=([\w.]+).*", r"==\1", requirement) for requirement in PROJECT["dependencies"]]
    session.install(".", "pytest>=8", "pytest-xdist>=3.5", *pinned)
    files = ("tests/inference/test_driver.py", "tests/models/test_views.py", "tests/diagnostics/test_certificate.py")
    # Old libraries warn of newer ones below them.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *(session.posargs or files))


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    session.install(".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    session.install(".[docs]")
    session.run("make", "-C", "docs", "html", external=True)
