"""Processes that a test starts, and may kill, without a command line: forked from one that has all imports behind it."""

from __future__ import annotations

import multiprocessing

# Forked from a process without threads, which imports these once: to spawn each anew takes a second for its imports.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["tests.store.test_committer", "tests.store.test_emaillog", "tests.migrations.test_migrations"]
)
