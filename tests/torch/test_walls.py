"""The structure of the package: imports, private names of PyTorch, lengths of functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "giant_kitten"
NAMES = {
    path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in NAMES}


def base_of(path: Path, node: ast.ImportFrom) -> str:
    """The absolute name of the module that `from … import` names."""
    if not node.level:
        return node.module or ""
    parts = NAMES[path].split(".")
    parts = parts[: len(parts) - node.level + (path.name == "__init__.py")]
    return ".".join([*parts, *(node.module or "").split(".")]).strip(".")


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it and also only for types."""
    modules = set(NAMES.values())
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = base_of(path, node)
            found = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        else:
            continue
        yield from (name for name in found if name in modules)


def lazily(path: Path) -> Iterator[str]:
    """The modules that the package's `__getattr__` imports by name."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            yield from (f"giant_kitten.{home}" for home in ast.literal_eval(node.value).values())


def test_there_is_no_circle_of_imports() -> None:
    edges = {name: set(imported(path)) | set(lazily(path)) for path, name in NAMES.items()}
    assert edges["giant_kitten"] >= {"giant_kitten._torch.install", "giant_kitten._placement"}
    assert "giant_kitten._out_and_back" in edges["giant_kitten._placement"]
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


# A name that PyTorch does not document, in code or in text.
PRIVATE = re.compile(r"\btorch(\.\w+)*\._[a-z]|\btorch\._C\b|\b_cuda_\w+|\b_accelerator_\w+|\bc10\b")


def private_names(path: Path) -> Iterator[str]:
    """The private names that a file uses and that are not its own."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if PRIVATE.search(line):
            yield f"{path}:{number}: {line.strip()}"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(name.startswith("_") for name in names) or "torch.multiprocessing" in (node.module or ""):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and re.match(r"_[a-z]", str(name.value)):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_private_names_of_pytorch_are_used_in_one_room_alone() -> None:
    room = PACKAGE / "_torch"
    assert list(private_names(room / "memory.py")) and list(private_names(room / "tensors.py"))
    elsewhere = [path for path in NAMES if room not in path.parents]
    assert [found for path in elsewhere for found in private_names(path)] == []


def functions() -> Iterator[tuple[str, int]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path}: {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_functions_are_short() -> None:
    assert [name for name, lines in functions() if lines > 60] == []
