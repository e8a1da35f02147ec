"""How a machine gets rlsys: the lock files, the choice of a Python, what the package holds."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")


def named(lines: list[str]) -> dict[str, str]:
    """The version that each line `name==version` of a lock file asks for, by plain name."""
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in (line.split("==") for line in lines)
    }


def lock(python: str) -> list[str]:
    return (ROOT / f"requirements-{python}.lock").read_text().splitlines()


@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_file_holds_names_and_versions_only(python: str) -> None:
    lines = lock(python)
    assert len(lines) > 50
    assert all(re.fullmatch(r"[\w.-]+==\w[\w.+]*", line) for line in lines)
    assert len(named(lines)) == len(lines)


@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_file_holds_all_that_the_project_asks_for(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in asked}
    versions = named(lock(python))
    assert len(names) > 15 and names <= versions.keys()
    assert (0, 10) <= tuple(map(int, versions["jax"].split(".")[:2])) < (0, 12)
    assert versions["jaxlib"] == versions["jax"]


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("rlsys").joinpath("py.typed").is_file()


def python(folder: Path, name: str, version: str | None) -> str:
    """A program that answers make as Python `version` would; None: as one without `venv`."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        f'test "$1" = -c && {f"echo requirements-{version}.lock" if version else "exit 1"}\n'
        'test "$1" = -m || exit 0\n'
        "rm -rf .venv && mkdir -p .venv/bin\n"
        f'printf "#!/bin/sh\\necho {name} pip \\$*\\n" >.venv/bin/pip && chmod +x .venv/bin/pip\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", *(f"requirements-{p}.lock" for p in PYTHONS)):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs make as from a shell, though the tests may themselves run under make."""
    inherited = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PYTHON", "EXTRA")
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True)


def test_make_takes_the_first_python_that_works(checkout: Path, tmp_path: Path) -> None:
    broken = python(tmp_path, "broken", None)
    too_new = python(tmp_path, "too-new", "3.99")
    good = python(tmp_path, "good", "3.12")
    later = python(tmp_path, "later", "3.11")
    pythons = f"PYTHON=no-such-python {broken} {too_new} {good} {later}"
    done = make(checkout, ".venv", pythons)
    assert done.returncode == 0, done.stderr
    assert "good pip install" in done.stdout and "-r requirements-3.12.lock" in done.stdout
    assert "-c requirements-3.12.lock -e .[dev]" in done.stdout
    assert "broken pip" not in done.stdout and "later pip" not in done.stdout
    assert "pip install" not in make(checkout, ".venv", pythons).stdout  # it stands


def test_make_builds_again_for_another_python(checkout: Path, tmp_path: Path) -> None:
    first, second = python(tmp_path, "first", "3.12"), python(tmp_path, "second", "3.11")
    assert "first pip install" in make(checkout, ".venv", f"PYTHON={first}").stdout
    assert "pip install" not in make(checkout, ".venv").stdout  # nothing was named, so it stays
    assert "-r requirements-3.11.lock" in make(checkout, ".venv", f"PYTHON={second}").stdout
    assert "pip install" not in make(checkout, ".venv", f"PYTHON={second}").stdout
    (checkout / "requirements-3.11.lock").touch()
    assert "-r requirements-3.11.lock" in make(checkout, ".venv").stdout  # the Python is remembered


def test_an_extra_is_added_at_any_time_and_remembered(checkout: Path, tmp_path: Path) -> None:
    def built() -> str:
        return (checkout / ".venv/built").read_text()

    first, second = python(tmp_path, "first", "3.12"), python(tmp_path, "second", "3.11")
    make(checkout, "install", f"PYTHON={first}")
    program = checkout / ".venv/bin/python"
    program.write_text("#!/bin/sh\necho it runs $*\n")
    program.chmod(0o755)
    done = make(checkout, "train", "EXTRA=cuda")
    assert "-e .[dev,cuda]" in done.stdout and "it runs -m rlsys.train r2d2" in done.stdout
    assert "-r requirements" not in done.stdout  # the rest stays as it is
    assert built() == f"{first} dev cuda\n"
    for words in (["train"], ["test"], ["train", "EXTRA=cuda"], ["train", "EXTRA=dev"]):
        done = make(checkout, *words)
        assert "it runs" in done.stdout and "pip install" not in done.stdout, done
    assert f"{first} with the extras dev cuda" in make(checkout, "install").stdout
    # However it is built again, the extra stays.
    (checkout / "pyproject.toml").touch()
    assert "-e .[dev,cuda]" in make(checkout, "install").stdout
    assert "-e .[dev,cuda]" in make(checkout, "install", f"PYTHON={second}").stdout
    assert "-e .[dev,cuda,tpu]" in make(checkout, "install", "EXTRA=tpu").stdout
    assert built() == f"{second} dev cuda tpu\n"


@pytest.mark.parametrize("words", [["ENV=smax/5m"], ["ARGS=--env smax/3m"]])
def test_a_game_of_smax_installs_what_it_needs(words: list[str], checkout: Path, tmp_path: Path):
    first = python(tmp_path, "first", "3.12")
    make(checkout, "install", f"PYTHON={first}")
    program = checkout / ".venv/bin/python"
    program.write_text("#!/bin/sh\necho it runs $*\n")
    program.chmod(0o755)
    other = make(checkout, "train", "ALGO=ppo", "ENV=Pong-v5")
    assert "it runs" in other.stdout and "pip install" not in other.stdout
    done = make(checkout, "train", "ALGO=ppo", *words)
    assert "-e .[dev,teams]" in done.stdout
    assert "it runs -m rlsys.train ppo --env smax" in done.stdout
    assert "-r requirements" not in done.stdout  # the rest stays as it is
    done = make(checkout, "train", "ALGO=ppo", *words)
    assert "it runs" in done.stdout and "pip install" not in done.stdout


def test_a_build_that_fails_forgets_no_extra(checkout: Path, tmp_path: Path) -> None:
    first = python(tmp_path, "first", "3.12")
    make(checkout, "install", f"PYTHON={first}", "EXTRA=cuda")
    good = (tmp_path / "first").read_text()
    (tmp_path / "first").write_text(good.replace("echo first pip", "exit 1 # "))
    (checkout / "pyproject.toml").touch()
    assert make(checkout, "install").returncode == 2
    (tmp_path / "first").write_text(good)
    assert "-e .[dev,cuda]" in make(checkout, "install").stdout


def test_what_can_be_seen_before_the_build_is_said_before(checkout: Path, tmp_path: Path) -> None:
    first = python(tmp_path, "first", "3.12")
    for words, said in (
        (["train", "EXTRA=gpu"], "there is no EXTRA=gpu"),
        (["resume"], "which run?"),
        (["resume", "RUN=runs/no-such"], "there is no run runs/no-such"),
        (["eval", "RUN=latest"], "there is no run latest"),
        (["export", "RUN=runs/ppo-*"], "there is no run runs/ppo-*"),
        (["sweep", "RESUME=runs/no-such"], "there is no sweep runs/no-such"),
        (["report"], "which runs?"),
    ):
        done = make(checkout, *words, f"PYTHON={first}")
        assert done.returncode == 2 and said in done.stderr, (words, done)
        assert not (checkout / ".venv").exists()


def test_make_says_in_one_sentence_that_no_python_works(checkout: Path, tmp_path: Path) -> None:
    broken = python(tmp_path, "broken", None)
    done = make(checkout, "test", f"PYTHON=no-such-python {broken}")
    assert done.returncode == 2 and not (checkout / ".venv").exists()
    said = done.stderr.splitlines()[0]  # make adds a line of its own
    assert f"tried: no-such-python {broken}" in said
    assert "install Python 3.11, 3.12 or 3.13" in said and "make test PYTHON=<path>" in said


def test_make_help_is_a_sentence_for_each_target() -> None:
    done = make(ROOT, "help")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert {"train", "test", "lint", "help"} <= {name for name, _ in lines}
    for name, text in lines:
        assert re.match(r"[A-Z][a-z]+ .*?[a-z]\.( |$)", text), (name, text)
