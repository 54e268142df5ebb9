"""Writes docs/tree.md: every module of `postroom/` with the first sentence of its docstring.

`python -m tools.tree` rewrites the page; a test compares it with what is on disk.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tree.md"
_HEAD = """# Where everything lives

Each module of `postroom/` with the first line of its docstring. Packages stand in the order of their imports: each
imports only from those below it, checked by import-linter in `make check` (`[tool.importlinter]` in pyproject.toml).
`python -m tools.tree` rewrites this page, and a test compares it with the tree.

"""
_ORDER = (
    "wsgi.py",
    "cli",
    "notices",
    "runtime",
    "web",
    "worker",
    "inbox",
    "intake",
    "telemetry",
    "accounts",
    "store",
    "smtp",
    "mime",
    "http_client.py",
    "providers.py",
    "settings.py",
    "core",
)
_COLUMN = 34


def page() -> str:
    """Return the page as it should be."""
    lines = ["postroom/", *_entries(ROOT / "postroom", 1)]
    return f"{_HEAD}```\n" + "\n".join(lines) + "\n```\n"


def _entries(folder: Path, depth: int) -> Iterator[str]:
    for path in sorted(folder.iterdir(), key=_rank):
        is_ours = path.is_dir() or path.suffix in (".py", ".sql")
        if path.name.startswith(("__init__", "__pycache__", "__main__")) or not is_ours:
            continue
        indented = "  " * depth + path.name + ("/" if path.is_dir() else "")
        first = _first_line(path / "__init__.py" if path.is_dir() else path)
        yield f"{indented:<{_COLUMN}}{first}".rstrip() if first else indented
        if path.is_dir() and path.name != "schema":
            yield from _entries(path, depth + 1)


def _rank(path: Path) -> tuple[int, bool, str]:
    place = _ORDER.index(path.name) if path.parent.name == "postroom" and path.name in _ORDER else -1
    return place, path.is_file(), path.name


def _first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        first = text.splitlines()[0]
        return first.removeprefix("-- ") if first.startswith("-- ") else ""
    return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
