"""data.csv: every fault by its line, no secret in any, and the good rows always kept."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.accounts.csv import AccountFile, RowFault, demo_csv, read_accounts
from postroom.accounts.csv_row import COLUMNS, AccountRow
from postroom.core.account import Secret, Security
from tests.soak import SOAK
from tests.steps import steps_of

HEADER = "key,email,app_password\n"
FULL = ",".join(COLUMNS) + "\n"
APP_PASSWORD = "abcdefghijklmnop"


def _read(text: str) -> AccountFile:
    return read_accounts(text.encode())


def _only_row(text: str) -> AccountRow:
    file = _read(text)
    assert file.faults == ()
    (row,) = file.rows
    return row


def _only_fault(text: str) -> RowFault:
    file = _read(text)
    (fault,) = file.faults
    return fault


class TestRows:
    def test_of_the_seed(self) -> None:
        row = _only_row(HEADER + f"k1,ann@gmail.com,{APP_PASSWORD}\n")
        assert row == AccountRow(2, Secret("k1"), "ann@gmail.com", password=Secret(APP_PASSWORD))

    def test_with_every_column(self) -> None:
        row = _only_row(FULL + 'k1,Ann@Example.COM,pw,"Ann, A.",Mail.Example,465,TLS,ann,500,4,30,no,Yes\n')
        assert row == AccountRow(
            line=2,
            key=Secret("k1"),
            email="Ann@example.com",
            name="Ann, A.",
            host="mail.example",
            port=465,
            security=Security.TLS,
            username="ann",
            password=Secret("pw"),
            daily_limit=500,
            connections=4,
            logins_per_minute=30,
            pipelining=False,
            chunking=True,
        )

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_as_any_program_writes_them(self, end: str, bom: bytes, delimiter: str) -> None:
        text = HEADER + 'k1,ann@gmail.com,pw1\n\n# note, with a "quote\n,,\nk2,bob@gmail.com,"p;w""2"'
        text = text.replace(",", delimiter).replace("\n", end)
        file = read_accounts(bom + text.encode())
        assert file.faults == ()
        assert [(row.line, row.key.reveal(), row.password.reveal()) for row in file.rows] == [
            (2, "k1", "pw1"),
            (6, "k2", 'p;w"2'),
        ]

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("start", [b"", codecs.BOM_UTF8, b"\n", b"# written by a spreadsheet\n"])
    @pytest.mark.parametrize(
        ("named", "delimiter"),
        [
            ("sep=;", ";"),
            ("SEP=,", ","),
            ('"sep=;"', ";"),
            ("sep=;;;", ";"),  # saved again, filled up to as many columns as the others
            ("sep=\t", "\t"),
            ("sep=|", "|"),
            ("sep=;", ","),  # edited by hand later
            ("sep=x", ","),  # nothing that could separate
            ('sep="', ","),
            ("sep= ", ";"),
        ],
    )
    def test_after_a_line_that_names_the_delimiter(
        self, named: str, delimiter: str, start: bytes, end: str
    ) -> None:
        text = f"{named}\n\n{HEADER}k1,ann@gmail.com,{APP_PASSWORD}\n".replace("\n", end)
        text = text.replace(",", delimiter) if "," not in named else text
        file = read_accounts(start + text.encode())
        assert file.faults == ()
        assert [(row.line, row.email) for row in file.rows] == [(4 + start.count(b"\n"), "ann@gmail.com")]

    def test_spaces_behind_a_space_as_the_separator_cost_no_time(self) -> None:
        """Each could be the separator or a space: all ways to read a hundred of them take for ever."""
        assert _read("sep=" + " " * 110 + ";\n" + HEADER).fatal is not None

    @pytest.mark.parametrize("text", ["sep=;", "sep=;\n", "sep=;\n# nothing\n"])
    def test_of_a_file_that_only_names_the_delimiter(self, text: str) -> None:
        assert "the file is empty" in _only_fault(text).message

    def test_that_name_the_delimiter_further_down_are_rows(self) -> None:
        file = _read(HEADER + "sep=;\n")
        assert [fault.line for fault in file.faults] == [2]

    @pytest.mark.parametrize("key", ["two words", "three  of them", "a\u00a0b"])
    def test_with_spaces_in_the_key(self, key: str) -> None:
        assert _only_row(HEADER + f" {key} ,ann@gmail.com,{APP_PASSWORD}\n").key == Secret(key)

    @pytest.mark.parametrize(
        "header",
        [
            "Key, E-mail ,App Password",
            "KEY,Email,APP_PASSWORD",
            '"key","email","app-password"',
            "key,email,appPassword",
        ],
    )
    def test_under_any_spelling_of_the_header(self, header: str) -> None:
        assert _only_row(f"{header}\nk,ann@gmail.com,pw\n").email == "ann@gmail.com"

    def test_with_columns_in_any_order(self) -> None:
        assert _only_row("app_password,key,email\npw,k,ann@gmail.com\n").password == Secret("pw")

    def test_with_a_line_break_in_the_name(self) -> None:
        file = _read('key,email,app_password,name\nk1,a@x.com,pw,"Ann\r\nLee"\nk2,b@x.com,pw,\n')
        assert [(row.line, row.name) for row in file.rows] == [(2, "Ann Lee"), (4, "")]

    def test_after_comments_and_blank_lines(self) -> None:
        assert _only_row("# accounts\n\n" + HEADER + "k,a@x.com,pw").line == 4

    def test_of_one_account_with_two_keys(self) -> None:
        file = _read(HEADER + f"k1,a@x.com,{APP_PASSWORD}\nk2,a@x.com,abcd efgh ijkl mnop\n")
        assert file.faults == ()
        assert file.rows[0].identity == file.rows[1].identity

    def test_of_one_mailbox_on_two_servers(self) -> None:
        file = _read("key,email,app_password,host\nk1,a@x.com,p1,one.example\nk2,a@x.com,p2,two.example\n")
        assert len(file.rows) == 2


class TestPassword:
    @pytest.mark.parametrize(
        "written", ["abcd efgh ijkl mnop", " abcd\u00a0efgh\u00a0ijkl\u00a0mnop ", APP_PASSWORD]
    )
    def test_of_google_loses_its_spaces(self, written: str) -> None:
        assert _only_row(HEADER + f"k,a@x.com,{written}\n").password == Secret(APP_PASSWORD)

    @pytest.mark.parametrize(
        "kept", ["correct horse 1", "abcd efgh ijkl mno", "abcd efgh ijkl mn0p", "äbcd efgh ijkl mnop"]
    )
    def test_of_others_keeps_them(self, kept: str) -> None:
        assert _only_row(HEADER + f"k,a@x.com, {kept} \n").password == Secret(kept)

    @pytest.mark.parametrize("host", ["inbox", "INBOX", "localhost", "relay.example"])
    def test_may_be_missing_where_a_host_is_given(self, host: str) -> None:
        assert not _only_row(f"key,email,app_password,host\nk,a@x.com,,{host}\n").password

    @pytest.mark.parametrize("host", ["", "smtp.gmail.com", "SMTP.Gmail.com"])
    def test_may_not_be_missing_for_a_provider(self, host: str) -> None:
        fault = _only_fault(f"key,email,app_password,host\nk,a@x.com,,{host}\n")
        assert fault == RowFault(2, "app_password is empty; only a server named in host may do without")


def test_the_first_file_is_the_inboxes() -> None:
    row = _only_row(demo_csv("demo-key"))
    assert row == AccountRow(2, Secret("demo-key"), "demo@postroom.example", host="inbox")


FULL_ROW = {
    "key": "canary-key",
    "email": "ann@gmail.com",
    "app_password": "canary-password",
    "name": "Ann",
    "host": "mail.example",
    "port": "587",
    "security": "starttls",
    "username": "ann",
    "daily_limit": "100",
    "connections": "2",
    "logins_per_minute": "10",
    "pipelining": "yes",
    "chunking": "",
}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("key", "", "key is empty"),
        ("key", "canary\x07", "key contains a control character"),
        ("key", "canary\u200b", "key contains a control character"),
        ("email", "", "email is empty"),
        ("email", "canary-password", "email: it is no mailbox"),
        ("email", "ann@canary..com", "email: it is no mailbox"),
        (
            "email",
            "ann\u200b@gmail.com",
            "email: the address contains the invisible character U+200B; remove it",
        ),
        ("email", "ann@gmail.com\x00", "email: the address contains a NUL"),
        ("app_password", "canary\x00", "app_password contains a control character"),
        ("name", "Ann\x1b[31m", "name contains a control character"),
        ("host", "mail.example:587", "host must be a bare host name"),
        ("host", "https://canary", "host must be a bare host name"),
        ("port", "0", "port must be a whole number from 1 to 65535"),
        ("port", "canary", "port must be a whole number"),
        ("security", "ssl", "security must be one of starttls, tls, none"),
        ("username", "canary\x00", "username contains a control character"),
        ("daily_limit", "0", "daily_limit must be a whole number"),
        ("daily_limit", "-5", "daily_limit must be a whole number"),
        ("daily_limit", "1.5", "daily_limit must be a whole number"),
        ("connections", "0", "connections must be a whole number"),
        ("connections", "many", "connections must be a whole number"),
        ("logins_per_minute", "0", "logins_per_minute must be a whole number"),
        ("pipelining", "canary", "pipelining must be true or false"),
        ("chunking", "2", "chunking must be true or false"),
    ],
)
def test_a_bad_value_costs_its_row_only(column: str, value: str, message: str) -> None:
    bad = ",".join({**FULL_ROW, column: value}.values())
    good = ",".join({**FULL_ROW, "key": "k2"}.values())
    file = _read(f"{FULL}{bad}\n{good}\n")
    (fault,) = file.faults
    assert fault.line == 2
    assert fault.message.startswith(message)
    assert not file.fatal
    assert [row.key.reveal() for row in file.rows] == ["k2"]
    assert "canary" not in repr(file)


@pytest.mark.parametrize(
    ("port", "security", "words"),
    [
        (465, "starttls", "should be tls"),
        (465, "none", "should be tls"),
        (587, "tls", "should be starttls"),
        (25, "tls", "should be starttls"),
    ],
)
def test_a_port_that_does_not_go_with_its_security_is_warned_of(port: int, security: str, words: str) -> None:
    text = "key,email,app_password,host,port,security\n"
    text += f"k1,ann@example.com,pw,mail.example,{port},{security}\nk2,ann@example.com,pw,mail.example,{port},{security}\n"
    file = _read(text)
    assert len(file.rows) == 2, "the rows count as they are"
    [warning] = file.faults
    assert (warning.line, words in warning.message, warning.fatal) == (2, True, False)


@pytest.mark.parametrize(
    "cells", ["465,tls", "465,", ",tls", "587,starttls", "2525,tls", "1465,starttls", ","]
)
def test_any_other_port_is_not(cells: str) -> None:
    assert (
        _read(f"key,email,app_password,host,port,security\nk1,a@b.example,pw,m.example,{cells}\n").faults
        == ()
    )


class TestFaultyRows:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                "k,a@x.com",
                "2 fields where the first line has 3, without app_password; end the row with a comma for each empty one",
            ),
            (
                "k",
                (
                    "1 field where the first line has 3, without email, app_password; "
                    "end the row with a comma for each empty one"
                ),
            ),
            (
                "k,a@x.com,pw,more",
                "4 fields where the first line has 3; put a value that contains a delimiter between quotes",
            ),
        ],
    )
    def test_with_too_few_or_too_many_fields(self, row: str, message: str) -> None:
        fault = _only_fault(HEADER + row + "\n")
        assert (fault.line, fault.message) == (2, message)

    @pytest.mark.parametrize(
        ("text", "missing", "sign"),
        [
            ("key;email;app_password;HOST\nk;a@x.com;pw\n", "host", "a semicolon"),
            ("key\temail\tapp_password\tnote\tport\nk\ta@x.com\tpw\n", "port, 1 ignored column", "a tab"),
            ("sep=|\nkey|email|app_password|host\nk|a@x.com|pw\n", "host", "“|”"),
        ],
    )
    def test_with_too_few_fields_between_other_delimiters(self, text: str, missing: str, sign: str) -> None:
        message = _read(text).faults[-1].message
        assert f", without {missing}; end the row with {sign} for each empty one" in message

    def test_a_row_that_ends_with_the_commas_that_the_fault_asks_for(self) -> None:
        header = "key,email,app_password,host,port\n"
        assert _read(header + "k,a@x.com,pw\n").rows == ()
        (row,) = _read(header + "k,a@x.com,pw,,\n").rows
        assert (row.host, row.port) == (None, None)

    def test_the_gmail_row_of_the_readme_appended_to_the_first_file(self) -> None:
        readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
        (row,) = re.findall(r"^ *(\S+,ann@gmail\.com,.*)$", readme, re.MULTILINE)
        file = _read(demo_csv("a-demo-key-of-twenty-four") + row + "\n")
        assert ([row.email for row in file.rows], file.faults) == (
            ["demo@postroom.example", "ann@gmail.com"],
            (),
        )

    def test_with_a_key_that_was_there(self) -> None:
        file = _read(HEADER + "canary,a@x.com,pw\nk2,b@x.com,pw\ncanary,c@x.com,pw\n")
        assert [row.email for row in file.rows] == ["a@x.com", "b@x.com"]
        (fault,) = file.faults
        assert (fault.line, "lines 2 and 4" in fault.message) == (4, True)
        assert "canary" not in fault.message

    def test_with_a_key_that_only_a_faulty_row_had(self) -> None:
        file = _read(HEADER + "k,nobody,pw\nk,a@x.com,pw\n")
        assert [row.email for row in file.rows] == ["a@x.com"]

    @pytest.mark.parametrize(
        "second",
        ["k2,a@x.com,other,mail.example,", "k2,a@x.com,pw,mail.example,5", "k2,a@X.com,pw2,MAIL.example,"],
    )
    def test_that_disagree_with_an_earlier_one(self, second: str) -> None:
        file = _read(f"key,email,app_password,host,daily_limit\nk1,a@x.com,pw,mail.example,\n{second}\n")
        (fault,) = file.faults
        assert (fault.line, "line 2 has the same mailbox" in fault.message) == (3, True)
        assert len(file.rows) == 1

    def test_that_are_not_utf8(self) -> None:
        data = b"key,email,app_password,name\nk1,a@x.com,pw,J\xfcrgen\nk2,b@x.com,pw,J\xc3\xbcrgen\n"
        file = read_accounts(data)
        assert [row.name for row in file.rows] == ["Jürgen"]
        assert [(fault.line, fault.message[:17]) for fault in file.faults] == [(2, "name is not UTF-8")]

    @pytest.mark.parametrize(
        "broken", ['k1,"a@x.com,pw', 'k1,a@x.com,"pw', '"k1"x,a@x.com,pw', '"', 'k1,a@x.com,"p"w"']
    )
    def test_with_a_quote_out_of_place(self, broken: str) -> None:
        file = _read(HEADER + broken + '\nk2,b@x.com,"p w"\nk3,c@x.com,pw\nk4,d@x.com,"p,""w"\n')
        assert [row.key.reveal() for row in file.rows] == ["k2", "k3", "k4"]
        assert [fault.line for fault in file.faults] == [2]


class TestFatalFaults:
    @pytest.mark.parametrize(
        ("data", "line", "message"),
        [
            (b"", 1, "the file is empty"),
            (codecs.BOM_UTF8, 1, "the file is empty"),
            (b"\n# only a comment\n", 1, "the file is empty"),
            (HEADER.encode("utf-16"), 1, "the file is UTF-16"),
            (codecs.BOM_UTF16_BE + HEADER.encode("utf-16-be"), 1, "the file is UTF-16"),
            (HEADER.encode("utf-16-le"), 1, "the file is UTF-16"),
            (b"key,email\nk,a@x.com\n", 1, "no column app_password"),
            (b"# note\n\nkey,mail,canary\nk,a@x.com,pw\n", 3, "no column email, app_password"),
            (b"canary-key,a@x.com,canary-password\n", 1, "no column key, email, app_password"),
            (b"key,email,app_password,Email\nk,a@x.com,pw,b@x.com\n", 1, "column email is there twice"),
            (b"key,email,app_password,note,Note\n", 1, "column note is there twice"),
            (b'"key,email,app_password\nk,a@x.com,pw\n', 1, "no column key"),
        ],
    )
    def test_leave_no_rows(self, data: bytes, line: int, message: str) -> None:
        file = read_accounts(data)
        assert file.rows == ()
        (fault,) = file.faults
        assert (fault.line, fault.fatal, file.fatal) == (line, True, True)
        assert fault.message.startswith(message)
        assert "canary" not in fault.message


class TestBounds:
    HEADER = "key,email,app_password,host\n"

    def test_of_the_faults_that_are_kept(self) -> None:
        good = "key-of-the-last-row-here,a@x.example,p,mail.example.com\n"
        found = read_accounts((self.HEADER + '"\n' * 500 + good).encode())
        assert len(found.rows) == 1
        assert [fault.line for fault in found.faults] == [*range(2, 22), 0]
        assert found.faults[-1].message.startswith("480 more lines are wrong")

    def test_of_the_rows_that_are_refused(self) -> None:
        good = "key-of-the-first-row-here,a@x.example,p,mail.example.com\n"
        found = read_accounts((self.HEADER + good + "x\n" * 10_001).encode())
        assert (found.rows, found.fatal, len(found.faults)) == ((), True, 2)
        assert "more than 10000 refused rows" in found.faults[0].message

    @pytest.mark.parametrize("line", ['"\n', "\n", "\r", "\r\n", "# \n"])
    def test_of_the_lines(self, line: str) -> None:
        found = read_accounts((self.HEADER + line * 200_000).encode())
        assert (found.rows, found.fatal, len(found.faults)) == ((), True, 1)
        assert "more than 200000 lines" in found.faults[0].message

    def test_that_a_large_file_does_not_reach(self) -> None:
        """A tenth of it here: each row takes its time."""
        rows = "".join(f"a-key-of-the-row-{n:06},a{n}@x.example,p,mail.example.com\n" for n in range(2000))
        found = read_accounts((self.HEADER + rows + "# a comment\n" * 190_000).encode())
        assert (len(found.rows), found.faults) == (2000, ())


def test_unknown_columns_are_named_once_and_ignored() -> None:
    file = _read('key,email,app_password,Shoe Size,,pass\x1bword\nk,a@x.com,pw,"4\n2",,x\nk2,b@x.com,pw,,,\n')
    assert [row.line for row in file.rows] == [2, 4]
    (fault,) = file.faults
    assert (fault.line, fault.fatal) == (1, False)
    assert fault.message.startswith("unknown column shoesize, pass?word is ignored")


def test_a_header_of_two_lines_is_read_past() -> None:
    file = _read('key,email,app_password,"a\nnote"\nk,a@x.com,pw,\n')
    assert [row.line for row in file.rows] == [3]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("line", ['"{}"x\n', '"{}\n', "k{0},m{0}@x.com,pw\n"])
def test_a_long_file_costs_its_length_not_its_square(line: str) -> None:
    """A second for 100,000 rows; what grows with their square takes minutes, and the test's time is up."""

    def read(rows: int) -> AccountFile:
        return read_accounts((HEADER + "".join(map(line.format, range(rows)))).encode())

    once, twice = (steps_of(partial(read, rows)) for rows in (500, 1000))
    assert twice < 2.5 * once
    rows = 100_000 if SOAK else 10_000
    file = read(rows)
    are_wrong = file.fatal or "more lines are wrong" in file.faults[-1].message if file.faults else False
    assert len(file.rows) == rows or are_wrong


@given(st.binary())
@example(b"\xff\xfe")
@example(b"\x00")
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    read_accounts(data)
    read_accounts(HEADER.encode() + data)
    read_accounts(FULL.encode() + data)


WORDS = st.text(st.sampled_from("ab \",;\t'é"), max_size=6)  # no #: at the start of a line it makes a comment


@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ka@.x,;\t"\n\r# \x00é'), max_size=5), max_size=12).map(",".join)
    )
)
def test_rows_that_look_like_rows_never_raise(rows: list[str]) -> None:
    read_accounts((FULL + "\n".join(rows)).encode())


def _line(cells: list[str], quoting: Literal[0, 1]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="").writerow(cells)
    return text.getvalue().encode()


@given(
    good=st.lists(WORDS, max_size=4),
    broken=st.one_of(
        st.binary(max_size=40).filter(lambda data: b"\n" not in data and b"\r" not in data),
        st.text(st.sampled_from('k",@ax.'), max_size=30).map(str.encode),
        st.sampled_from(
            [b'k9,z@x.com,pw,"', b'k9,"z@x.com', b'"', b'k9,z@x.com,"pw', b'k9,z@x.com,pw,"a', b",,,"]
        ),
    ),
    at=st.integers(0, 4),
    order=st.permutations(["key", "email", "app_password", "name"]),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
)
def test_good_rows_survive_any_broken_one(
    good: list[str], broken: bytes, at: int, order: list[str], quoting: Literal[0, 1]
) -> None:
    names = [" ".join(name.split()) for name in good]
    lines = [",".join(order).encode()]
    for number, name in enumerate(names):
        cells = {"key": f"good{number}", "email": f"m{number}@x.com", "app_password": "p,w", "name": name}
        lines.append(_line([cells[column] for column in order], quoting))
    lines.insert(1 + min(at, len(names)), broken)
    file = read_accounts(b"\n".join(lines))
    assert {(f"good{number}", name) for number, name in enumerate(names)} <= {
        (row.key.reveal(), row.name) for row in file.rows
    }


@given(st.binary(max_size=60), st.integers(0, 3))
def test_no_fault_repeats_a_secret(noise: bytes, field: int) -> None:
    cells = [b"SECRETKEY", b"ann@x.com", b"SECRETPASSWORD"]
    cells.insert(field, noise)
    file = read_accounts(HEADER.encode() + b",".join(cells) + b"\n" + b",".join(reversed(cells)))
    assert not any("SECRET" in fault.message for fault in file.faults)


def test_a_row_never_shows_its_secrets() -> None:
    row = AccountRow(1, Secret("canary"), "a@x.com", password=Secret("canary"))
    assert "canary" not in repr(row) + str(replace(row, line=2))
