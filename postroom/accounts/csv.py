"""Parses the text of `data.csv` into rows and faults (line numbers). Pure.

No fault ever repeats what stands in a row, for a shifted column would put a password
into a log: faults name lines and columns.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from postroom.accounts.csv_row import COLUMNS, MANAGED, REQUIRED, AccountRow, Fault, Malformed, row_of
from postroom.core.account import Secret
from postroom.core.text import counted
from postroom.providers import unusual_port
from postroom.settings import INBOX

T = TypeVar("T")

_CANONICAL: Final = {column.replace("_", ""): column for column in (*COLUMNS, *MANAGED)}
# Excel writes semicolons where the comma is the decimal sign, and may name them in a first line.
_DELIMITERS: Final[tuple[str, ...]] = (",", ";", "\t")
_DELIMITER_WORDS: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_NAMED_DELIMITER: Final = re.compile(r'\s*"?sep=(.)"?(?:\1|\s)*+', re.IGNORECASE)
LEAST_OF_A_KEY: Final = 20  # characters; 20 of 64 at random are 120 bits
_LONGEST_RECORD: Final = 100  # lines; keeps a file full of open quotes from costing its square
_MOST_LINES: Final = 200_000
_MOST_REFUSED: Final = 10_000  # rows; a file with more of them is no list of accounts
_MOST_TOLD: Final = 20  # faults


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong with the row that begins on `line`, or may be; fatal when it spoils the whole file."""

    line: int
    message: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class AccountFile:
    """All good rows in their order, and all faults.

    With a fatal fault there are no rows: keep the accounts there were before.
    """

    rows: tuple[AccountRow, ...]
    faults: tuple[RowFault, ...]
    refused: int = 0  # rows

    @property
    def fatal(self) -> bool:
        return any(fault.fatal for fault in self.faults)

    @property
    def short_keys(self) -> tuple[int, ...]:
        """The lines whose keys are short enough to be guessed."""
        return tuple(row.line for row in self.rows if row.key and len(row.key.reveal()) < LEAST_OF_A_KEY)


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    height: int  # lines
    fields: list[str]


@dataclass(frozen=True, slots=True)
class _Header:
    """Which column each field of a row is: a known name, or None for one that is ignored."""

    line: int
    end: int  # index of the line after it
    delimiter: str
    columns: tuple[str | None, ...]
    unknown: tuple[int, ...]
    names: tuple[str, ...]


def read_accounts(data: bytes, *, needs_keys: bool = True) -> AccountFile:
    """Read `data.csv`; whatever the bytes are, nothing is raised.

    A broken row costs itself only, even where its quote is never closed: reading goes
    on with the line after its first. Without `needs_keys` a key may be empty.
    """
    lines: list[str] = []
    try:
        lines = _lines(data)
        header = _header(lines)
    except Fault as fault:
        return AccountFile((), (RowFault(_first_line(lines), str(fault), fatal=True),))
    reader = _RowReader(header, needs_keys)
    at = header.end
    while at < len(lines):
        at += reader.read(lines, at)
        if reader.refused > _MOST_REFUSED:
            return AccountFile((), (_too_many(_MOST_REFUSED, "refused rows"), *reader.faults[:1]))
    faults = (
        *_unknown_columns(header),
        *_unused_columns(header, needs_keys),
        *reader.faults,
        *reader.untold(),
    )
    return AccountFile(tuple(reader.rows), faults, reader.refused)


def demo_csv(key: str) -> str:
    """Return the `data.csv` of a first start: one key, whose mail goes to the built-in inbox."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*REQUIRED, "host"))
    writer.writerow((key, "demo@postroom.example", "", INBOX))
    return text.getvalue()


# --- The file.


def _lines(data: bytes) -> list[str]:
    """Split at CRLF, LF and CR only, ends kept; bytes that are not UTF-8 become lone surrogates."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:2]:
        raise Fault("the file is UTF-16; save it as “CSV UTF-8”")
    if data.count(b"\n") + data.count(b"\r") > 2 * _MOST_LINES:
        raise Fault(_too_many(_MOST_LINES, "lines").message)
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    if len(lines) > _MOST_LINES:
        raise Fault(_too_many(_MOST_LINES, "lines").message)
    return lines


def _too_many(most: int, what: str) -> RowFault:
    return RowFault(0, f"the file has more than {most} {what}; name a file of accounts", fatal=True)


def _first_line(lines: list[str], after: int = 0) -> int:
    """Return the number of the first line behind line `after` that is not skipped, else 1."""
    return next((number for number, line in enumerate(lines[after:], after + 1) if not _skipped(line)), 1)


def _skipped(line: str) -> bool:
    return line.startswith("#") or not line.strip(" \r\n")


def _header(lines: list[str]) -> _Header:
    line, delimiters = _first_line(lines), _DELIMITERS
    if lines and (named := _NAMED_DELIMITER.fullmatch(lines[line - 1])):
        lines[line - 1] = "\n"
        line, delimiters = _first_line(lines, line), _delimiters(named[1])
    if not lines or _skipped(lines[line - 1]):
        raise Fault(f"the file is empty; its first line must be {','.join(REQUIRED)}")
    header = max(
        (_header_split_at(lines, line, delimiter) for delimiter in delimiters),
        key=lambda header: len(set(header.columns) - {None}),
    )
    missing = [column for column in REQUIRED if column not in header.columns]
    if missing:
        raise Fault(
            f"no column {', '.join(missing)} in the first line, which must name the columns: "
            f"{','.join(REQUIRED)}"
        )
    twice = sorted({_shown(name) for name in header.names if name and header.names.count(name) > 1})
    if twice:
        raise Fault(f"column {', '.join(twice)} is there twice; remove one")
    return header


def _delimiters(named: str) -> tuple[str, ...]:
    """Return the delimiters to try where a line `sep=` names one: a file that was edited later may have another."""
    usable = not named.isalnum() and named not in '" _-\n\r'
    return (named, *_DELIMITERS) if usable else _DELIMITERS


def _header_split_at(lines: list[str], line: int, delimiter: str) -> _Header:
    try:
        record = _record(lines, line - 1, delimiter)
    except Malformed:
        record = _Record(line, 1, [])
    plain = tuple(re.sub(r"[\s_-]", "", name.casefold()) for name in record.fields)
    columns = tuple(_CANONICAL.get(name) for name in plain)
    unknown = tuple(at for at, name in enumerate(plain) if name and columns[at] is None)
    names = tuple(_CANONICAL.get(name, name) for name in plain)
    return _Header(line, line - 1 + record.height, delimiter, columns, unknown, names)


def _unknown_columns(header: _Header) -> Iterator[RowFault]:
    if header.unknown:
        names = ", ".join(_shown(header.names[at]) for at in header.unknown)
        yield RowFault(header.line, f"unknown column {names} is ignored; known are {', '.join(COLUMNS)}")


def _unused_columns(header: _Header, is_data_csv: bool) -> Iterator[RowFault]:
    names = [column for column in header.columns if column in MANAGED]
    if names and is_data_csv:
        yield RowFault(
            header.line, f"column {', '.join(map(str, names))} counts for postroom accounts import FILE alone"
        )


def _shown(name: str) -> str:
    """Return the name of a column as it may stand in a log."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable if len(printable) <= 40 else printable[:39] + "…"


def _record(lines: list[str], at: int, delimiter: str) -> _Record:
    """Read the record that begins at index `at`. Raises Malformed."""
    chunk = lines[at : at + _LONGEST_RECORD]
    reader = csv.reader(chunk, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        fields = next(reader)
    except (csv.Error, StopIteration):
        raise Malformed(
            'a quote (") is not closed, or text follows a closing one; write "" for a quote'
        ) from None
    return _Record(at + 1, reader.line_num, [text.strip() for text in fields])


# --- The rows.


class _RowReader:
    """Gathers rows and faults, and knows the keys and accounts of the good rows so far."""

    def __init__(self, header: _Header, needs_keys: bool) -> None:
        self.rows: list[AccountRow] = []
        self.faults: list[RowFault] = []  # the first ones
        self.refused = 0
        self._told = 0
        self._header = header
        self._needs_keys = needs_keys
        self._keys: dict[Secret, int] = {}
        self._accounts: dict[tuple[object, ...], AccountRow] = {}

    def read(self, lines: list[str], at: int) -> int:
        """Read the record at index `at` and return by how many lines to go on."""
        if _skipped(lines[at]):
            return 1
        try:
            record = _record(lines, at, self._header.delimiter)
            if any(record.fields) or record.height > 1:  # a lone quote may pair with one further down
                self._add(_row(record, self._header, self._needs_keys))
        except Fault as fault:
            self.refused += 1
            self._tell(RowFault(at + 1, str(fault)))
            return 1  # lines that an open quote swallowed are read again, as rows of their own
        return record.height

    def untold(self) -> Iterator[RowFault]:
        """Yield the number of faults beyond those that are kept."""
        if (more := self._told - len(self.faults)) > 0:
            words = counted(more, "more line is", "more lines are")
            yield RowFault(0, f"{words} wrong; mend the ones that are named first")

    def _tell(self, fault: RowFault) -> None:
        self._told += 1
        if len(self.faults) < _MOST_TOLD:
            self.faults.append(fault)

    def _add(self, row: AccountRow) -> None:
        first_with_key = self._keys.get(row.key)
        if first_with_key:
            raise Fault(
                f"lines {first_with_key} and {row.line} have the same key; line {first_with_key} counts, "
                "give the other a key of its own"
            )
        first = self._accounts.get(row.identity)
        if first and (*first.settings, first.managed) != (*row.settings, row.managed):
            raise Fault(
                f"line {first.line} has the same mailbox and server with other settings or another "
                f"password; make line {row.line} agree with it"
            )
        if row.key:
            self._keys[row.key] = row.line
        if row.identity not in self._accounts and (doubt := unusual_port(row.port, row.security)):
            self._tell(RowFault(row.line, f"{doubt} (the row counts as it is)"))
        self._accounts.setdefault(row.identity, row)
        self.rows.append(row)


def _row(record: _Record, header: _Header, needs_key: bool) -> AccountRow:
    if len(record.fields) < len(header.columns):
        raise Malformed(_too_few(len(record.fields), header))
    if len(record.fields) > len(header.columns):
        raise Malformed(
            f"{counted(len(record.fields), 'field')} where the first line has {len(header.columns)}; put a value "
            "that contains a delimiter between quotes"
        )
    cells = {column: text for column, text in zip(header.columns, record.fields, strict=True) if column}
    return row_of(record.line, cells, needs_key=needs_key)


def _too_few(fields: int, header: _Header) -> str:
    """Return the fault of a row that ends early: which columns it lacks, and how to write them where they are empty."""
    missing = [column for column in header.columns[fields:] if column]
    if ignored := len(header.columns) - fields - len(missing):
        missing.append(counted(ignored, "ignored column"))
    sign = _DELIMITER_WORDS.get(header.delimiter) or f"“{_shown(header.delimiter)}”"
    return (
        f"{counted(fields, 'field')} where the first line has {len(header.columns)}, without {', '.join(missing)}; "
        f"end the row with {sign} for each empty one"
    )
