"""`python-docs`: the text that every Python carries, so that a first model can be trained without a network.

One document per topic of `pydoc_data.topics` (the language reference) and one per module of the standard library: its
docstrings, each under its qualified name, much as `help()` prints them. Modules are parsed, never imported, so that
nothing runs and a module meant for another system reads like any other. Modules written in C have no source to read.
"""

import ast
import functools
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

from scratchlab.errors import CorpusError

# Tests, code that is no part of the language's library (applications, other packages), and tables without prose.
SKIPPED_FOLDERS = frozenset(
    [
        "__phello__",
        "__pycache__",
        "dist-packages",
        "encodings",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    ]
)
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")  # how this one interpreter was compiled

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache  # a few megabytes, a few seconds of parsing, and a build reads its sources more than once
def python_docs() -> tuple[tuple[str, str], ...]:
    """All (name, text) pairs, topics first, both parts sorted by name. A function of the Python version alone."""
    return (*_topics(), *_modules())


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "python-docs: this Python comes without its documentation (no module pydoc_data.topics). Install the full "
            "standard library (on Debian and Ubuntu: apt install libpython3-stdlib), or give a text file or folder."
        ) from error
    for name in sorted(topics):
        yield f"topics/{name}", topics[name].strip() + "\n"


def _modules() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    paths = {_module_name(path.relative_to(library)): path for path in _sources(library)}
    for name in sorted(paths):
        text = module_docs(name, paths[name].read_bytes())
        if text:
            yield f"modules/{name}", text


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in SKIPPED_FOLDERS or path.name.startswith(SKIPPED_PREFIXES):
            continue
        if path.is_dir():
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _module_name(relative: Path) -> str:
    """`asyncio/queues.py` is `asyncio.queues`, `asyncio/__init__.py` is `asyncio`."""
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_docs(name: str, source: bytes) -> str:
    """All docstrings of a module's source in their order, headed by name and signature; empty where there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old module's invalid escape sequence is no concern of ours
        module = ast.parse(source)
    entries = list(_entries(module, name))
    docstring = ast.get_docstring(module)
    if not docstring and not entries:
        return ""
    title = f"{name}\n{'=' * len(name)}"
    return "\n\n".join([title, *([docstring.strip()] if docstring else []), *entries]) + "\n"


def _entries(parent: ast.AST, prefix: str) -> Iterator[str]:
    """Every documented class and function below `parent`, not those that live inside a function's body."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition):
            if docstring := ast.get_docstring(node):
                yield f"{_heading(node, prefix)}\n{indent(docstring.strip(), '    ')}"
            if isinstance(node, ast.ClassDef):
                yield from _entries(node, f"{prefix}.{node.name}")
        else:
            yield from _entries(node, prefix)  # definitions under `if`, `try` and the like


def _heading(node: Definition, prefix: str) -> str:
    name = f"{prefix}.{node.name}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    if any(isinstance(decorator, ast.Name) and "property" in decorator.id for decorator in node.decorator_list):
        return name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{kind}{name}({ast.unparse(node.args)}){returns}"
