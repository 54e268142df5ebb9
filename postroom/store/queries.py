"""The named statements: store/sql/<noun>.sql, and for each engine the folder with what differs (aiosql)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiosql
from aiosql.queries import Queries
from aiosql.types import SyncDriverAdapterProtocol

_FOLDER = Path(__file__).parent / "sql"


def load(engine: str, adapter: Callable[[], SyncDriverAdapterProtocol]) -> Queries:
    """Return the named statements of an engine (`sqlite` or `postgres`), bound to its driver by `adapter`."""
    files = [*sorted(_FOLDER.glob("*.sql")), *sorted((_FOLDER / engine).glob("*.sql"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    queries: Queries = aiosql.from_str(text, adapter, mandatory_parameters=False)
    return queries
