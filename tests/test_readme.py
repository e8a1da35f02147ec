"""The READMEs hold: their code runs, their commands are commands, and their links lead somewhere.

A block of Python runs as it stands, in a folder of its own beside rlsys and experiments. A comment
on the line before the block says more:

    <!-- file: NAME -->    the block is saved as NAME first, for the commands that follow
    <!-- continues -->     the block goes on with the one before it
    <!-- from: PATH -->    the block is a part of that file, line by line, and does not run
    <!-- needs: NAME -->   the block reads that file, which the fixture of that name makes

Of a block marked `sh` every line but those of make runs in a shell. Blocks without a mark hold
commands, which are read and not run; `text` is a picture.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from test_train import play

from rlsys import algorithms, cli, train
from rlsys.config import RunConfig
from rlsys.results.match import MatchConfig
from rlsys.sweep.members import members

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "rlsys/README.md", "rlsys/plan/README.md", "experiments/README.md")
MAKEFILE = (ROOT / "Makefile").read_text()
HOSTS = ("--coordinator", "--num-processes", "--process-id")
TINY = (
    "--num-envs 64 --unroll-length 8 --refresh-steps 8 --env-steps 1024 --eval-episodes 2 "
    "--hidden-size 16 --head-size 8 --log-every 512"
)


class Block(NamedTuple):
    readme: str
    line: int  # of its first line
    language: str
    mark: tuple[str, str]  # ("file", "my_env.py"), or two empty words
    text: str

    def __str__(self):
        return f"{self.readme}:{self.line}"


def read_blocks(readme: str) -> list[Block]:
    """Reads all blocks of a README, in order."""
    text = (ROOT / readme).read_text()
    pattern = r"^(?:<!-- (\w+)(?:: (\S+))? -->\n)?```(\w*)\n(.*?)^```$"
    found = []
    for match in re.finditer(pattern, text, re.M | re.S):
        mark = (match[1] or "", match[2] or "")
        line = text.count("\n", 0, match.start(4)) + 1
        found.append(Block(readme, line, match[3], mark, match[4]))
    assert 2 * len(found) == len(re.findall("^```", text, re.M))
    return found


def read_inline(readme: str) -> list[Block]:
    """Reads the commands that stand between the words of a README, each as a block of a line."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / readme).read_text(), flags=re.M | re.S)
    found = re.findall(r"`((?:make|\.venv/bin/python -m) [^`\n]+)`", text)
    return [Block(readme, 0, "", ("", ""), line) for line in dict.fromkeys(found)]


BLOCKS = [block for readme in READMES for block in read_blocks(readme)]
PYTHON = [b for b in BLOCKS if b.language == "python" and b.mark[0] != "from"]
QUOTED = [b for b in BLOCKS if b.mark[0] == "from"]
SHELL = [b for b in BLOCKS if b.language == "sh"]
COMMANDS = [
    (block, line)
    for block in [*BLOCKS, *(block for readme in READMES for block in read_inline(readme))]
    if block.language in ("", "sh")
    for line in block.text.splitlines()
]


def before(block: Block, text: str = "") -> str:
    """Joins a block to those that it continues."""
    text = block.text + text
    if block.mark[0] != "continues":
        return text
    return before(PYTHON[PYTHON.index(block) - 1], text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with rlsys and experiments in it, as a checkout is, which is the current one."""
    for name in ("rlsys", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> bytes:
    """An exported policy of cart-pole."""
    folder = tmp_path_factory.mktemp("policy")
    assert play("ppo", *TINY.split(), "--run-dir", folder / "run") == 0
    assert play("export", folder / "run", "--out", folder / "policy.zip") == 0
    return (folder / "policy.zip").read_bytes()


def save_files(readme: str, folder: Path) -> None:
    """Saves the blocks of a README that are marked as files."""
    for block in PYTHON:
        if block.readme == readme and block.mark[0] == "file":
            (folder / block.mark[1]).write_text(block.text)


def words_of(line: str) -> tuple[str, dict[str, str]]:
    """Reads a line `make TARGET NAME=value ...` -> the target, and the values by name."""
    _, target, *rest = shlex.split(line)
    return target, dict(word.split("=", 1) for word in rest)


def config_words(values: dict[str, str]) -> tuple[str, list[str]]:
    """The words that the Makefile hands to rlsys.train: the algorithm, and its arguments."""
    env = ["--env", values["ENV"]] if "ENV" in values else []
    return values.get("ALGO", "r2d2"), [*env, *shlex.split(values.get("ARGS", ""))]


def check_make(line: str) -> None:
    """Checks that a line of make names a target, and that its words are understood."""
    target, values = words_of(line)
    rule = re.search(rf"^{re.escape(target)}:.*", MAKEFILE, re.M)
    assert rule, f"there is no target {target}"
    recipe = MAKEFILE[rule.start() : MAKEFILE.find("\n\n", rule.start())]
    for name in values:
        assert f"$({name})" in recipe or name in ("PYTHON", "EXTRA"), f"{target} ignores {name}"
    algorithm, words = config_words(values)
    if not values:
        return
    if target in ("train", "plan", "profile"):
        for flag in HOSTS:
            _, words = cli.take(words, flag)
        algorithms.config_of(algorithm, [word for word in words if word != "--help"])
    elif target == "sweep" and "RESUME" not in values:
        assert len(members(algorithm, [w for w in words if w != "--print-commands"])) > 1
    elif target in ("match", "resume", *train.COMMANDS):
        assert values["RUN"].startswith("runs/")
        defaults = {name: train.command_of(name).default for name in train.COMMANDS}
        default = (defaults | {"match": MatchConfig(), "resume": RunConfig()})[target]
        cli.parse(default, shlex.split(values.get("ARGS", "")), "")


def check_module(line: str) -> None:
    """Checks that a line of Python names a module, and that its source knows the flags."""
    python, m, module, *words = shlex.split(line)
    assert (python, m) == (".venv/bin/python", "-m")
    found = importlib.util.find_spec(module)
    assert found and found.origin, f"there is no module {module}"
    files = [Path(found.origin), ROOT / "experiments/study.py"]
    if found.submodule_search_locations:
        assert importlib.util.find_spec(f"{module}.__main__"), f"{module} is no program"
        files += files[0].parent.glob("*.py")
    source = "".join(path.read_text() for path in files)
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        assert re.search(rf"^    {name}: ", source, re.M), f"{module} has no {flag}"


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_front_page_lists_every_algorithm():
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| \[", text, re.M)) == set(algorithms.NAMES)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block, folder, request):
    save_files(block.readme, folder)
    if block.mark[0] == "needs":
        name = block.mark[1]
        Path(name).write_bytes(request.getfixturevalue(Path(name).stem))
    exec(compile(before(block), str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", QUOTED, ids=str)
def test_quoted_code_is_that_of_its_file(block):
    assert block.text in (ROOT / block.mark[1]).read_text()


@pytest.mark.parametrize("block, line", COMMANDS, ids=lambda x: str(x)[:60])
def test_commands_are_understood(block, line, folder):
    save_files(block.readme, folder)
    if block.language == "sh":
        prepare(block)
    word = line.split()[0]
    if word == "make":
        check_make(line)
    elif word == ".venv/bin/python":
        check_module(line)
    else:
        assert block.language == "sh", f"what is {line!r}?"


def prepare(block: Block) -> None:
    """Runs those lines of a block in a shell that are not commands of make."""
    lines = [line for line in block.text.splitlines() if not line.startswith("make ")]
    subprocess.run(["sh", "-e", "-c", "\n".join(lines)], check=True)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_copied_algorithm_trains(block, folder):
    """It trains by the user's own loss, not by that of rlsys."""
    save_files(block.readme, folder)
    prepare(block)
    (values,) = [words_of(x)[1] for x in block.text.splitlines() if x.startswith("make train")]
    algorithm, words = config_words(values)
    assert play(algorithm, *words, *TINY.split(), "--run-dir", "run") == 0
    (loss,) = {name for name in sys.modules if name.startswith("my_")} - {algorithm}
    used = {getattr(x, "__module__", "") for x in vars(sys.modules[algorithm]).values()}
    assert loss in used


def test_the_environment_of_the_front_page_trains(folder):
    save_files("README.md", folder)
    words = "--env jax/my_env:Lights:max_episode_steps=20 --run-dir run"
    assert play("ppo", *TINY.split(), *words.split()) == 0


def links(readme: str) -> list[str]:
    """The targets of a README's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", (ROOT / readme).read_text())


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings have."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    found = [link for link in links(readme) if not link.startswith("https://")]
    assert len(found) > 5
    for link in found:
        name, _, anchor = link.partition("#")
        path = (ROOT / readme).parent / name if name else ROOT / readme
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("readme", READMES)
def test_named_files_exist(readme):
    text = (ROOT / readme).read_text()
    made = {name for kind, name in (b.mark for b in BLOCKS) if kind in ("file", "needs")}
    made |= {"my_vtrace.py", "my_impala.py", "my_ppo.py", "play.py", "members.csv"}
    made |= {"ratings.csv", "ratings.png", "transfer.png", "ranges.png"}
    for name in re.findall(r"[\w./-]+\.(?:csv|png|py)\b", text):
        places = (ROOT / readme).parent, ROOT, ROOT / "tests", ROOT / "rlsys/algorithms"
        assert name in made or any((place / name).exists() for place in places), name


def test_every_result_is_named():
    """A csv or a plot that no README names is a number without a command."""
    text = "".join((ROOT / readme).read_text() for readme in READMES)
    results = [path.name for path in (ROOT / "experiments/results").iterdir()]
    assert len(results) > 20
    assert [name for name in results if name not in text] == []
