"""The order of the house: who may import whom, what is public, what starts fast, what the README and help promise."""

import ast
import graphlib
import importlib
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import scratchlab
from scratchlab.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Each part may import the parts on earlier lines; those on one line know nothing of each other.
ORDER = [
    ("errors",),
    ("extras", "seeds"),
    ("files",),
    ("lines", "words"),
    ("hardware", "problems", "processes"),
    ("devices",),
    ("sections",),
    ("architecture",),
    ("recipe",),
    ("recipe_files",),
    ("runfolder",),
    ("corpus", "model"),
    ("generation",),
    ("evaluation",),
    ("training",),
    ("serving",),
    ("interop",),
    ("study",),
    ("judging",),
    ("cli",),
]
LAYER = {part: layer for layer, parts in enumerate(ORDER) for part in parts}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    names: dict[str, Path] = {}
    for path in sorted((SOURCE / "scratchlab").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports, wherever in it, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "scratchlab"}
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "scratchlab"):
            assert not node.level, f"{name}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in MODULES else str(node.module) for module in inner}
    return found


def part_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("scratchlab", "scratchlab.__main__")])
def test_imports_run_one_way(name: str) -> None:
    for imported in imports(name) - {"scratchlab"}:  # the package itself: its version
        mine, other = part_of(name), part_of(imported)
        assert mine == other or LAYER[other] < LAYER[mine], f"{name} imports {imported}"


def test_every_import_names_a_module_that_is_there() -> None:
    assert {imported for name in MODULES for imported in imports(name)} <= MODULES.keys()


def test_there_are_no_circles() -> None:
    inner = {name: imports(name) - {"scratchlab"} for name in MODULES if name != "scratchlab"}
    assert len(list(graphlib.TopologicalSorter(inner).static_order())) >= len(inner)


def test_public_names_are_these_and_can_be_had() -> None:
    assert scratchlab.__all__ == ["load", "load_recipe", "open_corpus", "train"]
    assert all(callable(getattr(scratchlab, name)) for name in scratchlab.__all__)
    assert set(scratchlab.__all__) < set(dir(scratchlab))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = scratchlab.lode  # pyright: ignore[reportAttributeAccessIssue]


def run_python(code: str) -> str:
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("scratchlab", "torch numpy pydantic click rich matplotlib"),
        ("scratchlab.cli.main", "torch numpy pydantic rich matplotlib tokenizers"),
        ("scratchlab.recipe", "torch matplotlib tokenizers"),
        ("scratchlab.runfolder", "torch matplotlib tokenizers"),
        ("scratchlab.seeds", "torch"),
    ],
)
def test_heavy_imports_wait(module: str, without: str) -> None:
    heavy = without.split()
    assert run_python(f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


SIDE_EFFECTS = """
import importlib, sys
import numpy, torch
def state():
    return (
        torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
        str(numpy.random.get_state()), str(torch.get_default_device()),
    )
torch.manual_seed(0), numpy.random.seed(0)
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(state() == before)
"""


def test_importing_changes_nothing_about_torch() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    outcome = subprocess.run(
        [sys.executable, "-c", SIDE_EFFECTS, *names], capture_output=True, text=True, check=False, timeout=120
    )
    assert outcome.stdout == "True\n", outcome.stderr


def test_help_answers_in_less_than_300_ms() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "scratchlab", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    best = 9.0
    for attempt in range(4):  # a busy machine gets another try; four busy ones in a row are slow code
        best = min(best, statistics.median(seconds() for _ in range(5)))
        if best < 0.3:
            return
        time.sleep(attempt)
    pytest.fail(f"scratchlab --help takes {best:.2f} s")


# Help.


def commands(command: click.Command, path: tuple[str, ...] = ("scratchlab",)) -> Iterator[tuple[str, click.Command]]:
    """Every command and group, with what one types to call it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from commands(inner, (*path, name))


ALL_COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("typed", ALL_COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(typed: str) -> None:
    command = ALL_COMMANDS[typed]
    help_text = command.get_help(click.Context(command, info_name=typed))
    assert command.help
    assert "Example: scratchlab " in help_text
    example = str(command.epilog).removeprefix("Example: ")
    assert example.startswith(f"{typed} ")
    words, called = shlex.split(example.split(" > ")[0])[1:], cli
    while isinstance(called, click.Group):
        inner = called.get_command(click.Context(called), words[0])
        assert inner is not None, f"there is no command {words[0]}"
        called, words = inner, words[1:]
    called.make_context(typed, words)


def test_the_overview_says_what_the_commands_say() -> None:
    assert [typed.split()[1] for typed in ALL_COMMANDS if typed.count(" ") == 1] == list(COMMANDS)
    assert {"corpus", "train", "evaluate", "sample", "show", "runs", "recipe"} <= COMMANDS.keys()


def test_what_reports_has_json() -> None:
    reporting = [
        "corpus build",
        "corpus show",
        "plan",
        "train",
        "evaluate",
        "compare",
        "scoreboard",
        "gallery",
        "sample",
        "chat",
        "show",
        "runs",
        "runs list",
        "runs diff",
    ]
    reporting += ["tokenizer show", "tokenizer compare", "recipe check", "corpus verify", "corpus overlap"]
    reporting += ["corpus push", "corpus pull", "import", "export", "publish", "verify"]
    reporting += ["ladder", "finetune", "answer", "judge", "label"]
    reporting += ["study plan", "study run", "study status", "study analyze", "study export", "study report"]
    for name in reporting:
        options = {option for p in ALL_COMMANDS[f"scratchlab {name}"].params for option in p.opts}
        assert "--json" in options, name


# The README.


def file_map() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## File map$.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, 'README.md has no fenced block under "## File map"'
    return [line.split()[0] for line in found[1].splitlines() if line.strip()]


def test_every_path_of_the_file_map_is_there() -> None:
    assert [path for path in file_map() if not list(ROOT.glob(path.rstrip("/")))] == []  # a * stands for several


def test_the_file_map_lists_every_module() -> None:
    listed = {str(Path(path)) for path in file_map()}
    shipped = {str(p.relative_to(ROOT)) for p in MODULES.values() if not p.name.startswith("__")}
    assert sorted(shipped - listed) == []
    assert len(listed) == len(file_map()), "each once"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_is_there(path: Path) -> None:
    """They are run by hand, so that nothing else would notice."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("scratchlab"):
            module = importlib.import_module(str(node.module))
            missing = [
                alias.name
                for alias in node.names
                if not hasattr(module, alias.name) and f"{node.module}.{alias.name}" not in MODULES
            ]
            assert not missing, f"line {node.lineno}: {node.module} has no {', '.join(missing)}"
