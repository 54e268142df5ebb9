"""Lines of several processes in one pipe: each is whole, however long it is, and a batch is written at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postroom.telemetry.line_writer import LineWriter
from tests.servers.installation import ROOT

_PROCESSES, _BATCHES = 4, 60
_WRITING = """
import json, sys
from pathlib import Path
from postroom.telemetry.line_writer import LineWriter

writer = LineWriter(1, Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    lengths = (10, 700, 4090, 9000 if number % 3 else 20, 150)
    writer.write([json.dumps([sys.argv[2], number, "x" * length]).encode() + b"\\n" for length in lengths])
assert writer.lost == 0
"""


def test_no_line_in_a_pipe_is_broken_by_another_processes(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITING, str(tmp_path / "lock"), str(number), str(_BATCHES)],
                cwd=ROOT,
                stdout=writer,
            )
            for number in range(_PROCESSES)
        ]
        os.close(writer)
        lines = [json.loads(line) for line in read]
    assert [process.wait() for process in processes] == [0] * _PROCESSES
    assert len(lines) == _PROCESSES * _BATCHES * 5
    for process in range(_PROCESSES):
        numbers = [number for whose, number, _ in lines if whose == str(process)]
        assert numbers == sorted(numbers)


def _calls(monkeypatch: pytest.MonkeyPatch, fd: int, folder: Path, lines: list[bytes]) -> list[int]:
    calls: list[int] = []
    real = os.write

    def write(to: int, octets: bytes) -> int:
        if to == fd:
            calls.append(len(octets))
        return real(to, octets)

    monkeypatch.setattr(os, "write", write)
    writer = LineWriter(fd, folder / "lock")
    writer.write(lines)
    writer.close()
    return calls


def test_a_batch_is_one_write_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b"x" * 999 + b"\n"] * 50
    with (tmp_path / "log").open("wb") as file:
        assert _calls(monkeypatch, file.fileno(), tmp_path, lines) == [50_000]
    assert (tmp_path / "log").read_bytes() == b"".join(lines)


def test_a_batch_is_as_many_writes_to_a_pipe_as_it_takes_to_keep_lines_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    assert _calls(monkeypatch, writer, tmp_path, [b"x" * 999 + b"\n"] * 10) == [4000, 4000, 2000]
    os.close(writer)
    os.close(reader)


def test_without_a_folder_for_the_lock_lines_are_written_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        LineWriter(file.fileno(), tmp_path / "none" / "lock").write([b"a line\n"])
    assert (tmp_path / "log").read_bytes() == b"a line\n"


def test_what_nobody_reads_is_counted(tmp_path: Path) -> None:
    reader, write_end = os.pipe()
    os.close(reader)
    writer = LineWriter(write_end, tmp_path / "lock")
    writer.write([b"a\n", b"b\n"])
    assert writer.lost == 2
    os.close(write_end)
