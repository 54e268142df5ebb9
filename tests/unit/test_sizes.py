"""No module of `postroom/` has more than 400 lines, no class 250, no function 40, and few lines say `Any`."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.installation import ROOT

PACKAGE = ROOT / "postroom"
MODULE_LINES = 400
CLASS_LINES = 250
FUNCTION_LINES = 40
ANY_LINES = 39


def _things(path: Path, text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the lines and the limit of a module and of all that is in it."""
    name = path.relative_to(PACKAGE).as_posix()
    yield name, len(text.splitlines()), MODULE_LINES
    yield from _definitions(f"{name}:", ast.parse(text))


def _definitions(within: str, node: ast.AST) -> Iterator[tuple[str, int, int]]:
    for child in ast.iter_child_nodes(node):
        inner = within
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            limit = CLASS_LINES if isinstance(child, ast.ClassDef) else FUNCTION_LINES
            yield f"{within}{child.name}", (child.end_lineno or 0) - child.lineno + 1, limit
            inner = f"{within}{child.name}."
        yield from _definitions(inner, child)


def _lines_with_any(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.NAME and token.string == "Any"})


def _read() -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]


def test_modules_classes_and_functions_are_within_their_limits() -> None:
    things = [thing for path, text in _read() for thing in _things(path, text)]
    assert not [(name, lines, limit) for name, lines, limit in things if lines > limit]


def test_few_lines_say_any() -> None:
    assert sum(_lines_with_any(text) for _, text in _read()) <= ANY_LINES


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [
        ("x = 1\n" * 401, "a.py", 401),
        ("class A:\n" + "    x = 1\n" * 250, "a.py:A", 251),
        ("def f():\n" + "    x = 1\n" * 40, "a.py:f", 41),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 40, "a.py:A.f", 41),
        ("def f():\n    if x:\n        def g():\n" + "            x = 1\n" * 40, "a.py:f.g", 41),
    ],
)
def test_what_is_over_a_limit_is_seen(text: str, name: str, lines: int) -> None:
    over = {thing: size for thing, size, limit in _things(PACKAGE / "a.py", text) if size > limit}
    assert over[name] == lines


def test_any_is_counted_by_the_line_and_in_code_only() -> None:
    text = '"""Any."""\nfrom typing import Any\nx: dict[Any, Any] = {}  # Any\ny: Anything\n'
    assert _lines_with_any(text) == 2
