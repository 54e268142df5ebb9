"""Servers that repeat what we logged in with: nothing of it is kept."""

from __future__ import annotations

import ast
import base64
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.account import Security
from postroom.core.classify import classify_fault
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Deferred, Failed, Outcome, Reply
from postroom.smtp.client import Connection
from postroom.smtp.credentials import STRUCK, Credentials
from postroom.smtp.deliver import deliver
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.stream import Wire, _text
from postroom.smtp.transcript import Envelope
from tests.conftest import MakeContext, StartScripted
from tests.smtp.dialog import PASSWORD, USER, endpoint, job, nothing, run


def in_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


PLAIN = in_base64(f"\0{USER}\0{PASSWORD}".encode())
WORD = in_base64(PASSWORD.encode())
ECHOES = {
    "PLAIN response": PLAIN,
    "its end": PLAIN[-14:],
    "LOGIN response": WORD,
    "in clear": PASSWORD,
    "eight characters": PASSWORD[3:11],
    "in capitals": PASSWORD.upper(),
    "over two lines": f"{PLAIN[:30]}\r\n535 5.7.8 {PLAIN[30:]}",
    "the password over two lines": f"{PASSWORD[:6]}\r\n535 5.7.8 {PASSWORD[6:]}",
    "within other base64": in_base64(f"xy{PASSWORD} was wrong".encode()),
}


def reason_of(fault: SMTPFault) -> str:
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred | Failed)
    return f"{fault} {fault.reply} {outcome.reason}"


async def _refused(where: Endpoint) -> SMTPFault:
    with pytest.raises(SMTPFault) as caught:
        await Connection.open(where)
    return caught.value


def leaks(text: str) -> set[str]:
    """Return each run of eight characters of what we sent that is in the text."""
    flat = "".join(text.split()).lower()
    forms = ["".join(form.split()).lower() for form in (PASSWORD, WORD, PLAIN)]
    return {form[at : at + 8] for form in forms for at in range(len(form) - 7) if form[at : at + 8] in flat}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_refusal_that_repeats_the_log_in_is_shown_by_its_code(scripted: StartScripted, echo: str) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    text = f"5.7.8 no: {ECHOES[echo]} is wrong"
    server.on("LINE", f"535-{text}" if "\r\n" in text else f"535 {text}", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert fault.kind is FaultKind.REFUSED
    assert fault.reply == Reply(535, "", "5.7.8")
    shown = reason_of(fault)
    assert not leaks(shown), shown
    assert "is wrong" not in shown
    assert "535 5.7.8 [" in shown, "our explanation is there"


def test_a_refusal_that_names_the_user_alone_is_kept(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"535 5.7.8 {USER} is not known here", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert f"{USER} is not known here" in reason_of(fault)


def test_what_is_not_smtp_is_shown_without_the_password(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"you said {PLAIN} {PASSWORD}", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert fault.kind is FaultKind.GARBLED
    assert STRUCK in str(fault)
    assert not leaks(str(fault))


def test_any_other_reply_keeps_its_other_words() -> None:
    credentials = Credentials(USER, PASSWORD)
    reply = Reply(550, f"no, {PASSWORD}\nfrom {USER}", "5.7.1")
    assert credentials.strike_reply(reply, "MAIL") == Reply(550, f"no, {STRUCK}\nfrom {USER}", "5.7.1")
    assert credentials.strike_reply(Reply(550, "no"), "AUTH") == Reply(550, "no")


WORDS_OF_SMTP = ("plain", "login", "pipelining", "Username1", "Password1", "cGFzc3dvcmQ")


@pytest.mark.parametrize("password", WORDS_OF_SMTP)
def test_what_is_acted_on_is_read_whole(scripted: StartScripted, password: str) -> None:
    """A password may be a word of SMTP: what the server offers and asks for is neither kept nor shown."""
    server = scripted(extensions=["PIPELINING", "AUTH LOGIN"])
    server.on("LINE", f"334 {in_base64(b'Password:')}", match="AUTH LOGIN")
    server.on("LINE", f"334 {in_base64(b'Username:')}", match=in_base64(password.encode()))
    server.on("LINE", "235 2.7.0 ok", match=in_base64(USER.encode()))

    async def dialogue() -> bool:
        connection = await Connection.open(endpoint(server, password=password))
        await connection.quit()
        return connection.authenticated and connection._pipelines

    assert run(dialogue())
    assert server.commands[1:4] == ["AUTH LOGIN", in_base64(password.encode()), in_base64(USER.encode())]


def test_a_prompt_that_ought_not_to_come_is_shown_without_the_password(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"334 you are {PASSWORD}", match=PLAIN)
    server.on("LINE", "334 ", match="AUTH PLAIN")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert STRUCK in str(fault)
    assert not leaks(str(fault))


ASCII = st.characters(min_codepoint=32, max_codepoint=126)


@given(st.text(ASCII, min_size=8, max_size=40), st.text(ASCII), st.text(ASCII), st.data())
def test_no_run_of_a_password_stays(password: str, before: str, after: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(password) - 8))
    said = password[start : start + data.draw(st.integers(8, 40))]
    struck = Credentials("user", password).strike(before + said + after)
    if len("".join(said.split())) >= 4:
        assert said.strip() not in struck.replace(STRUCK, "\0")


@pytest.mark.parametrize(
    ("verb", "code"), [("MAIL", 354), ("RCPT", 550), ("DATA", 250), ("DOT", 250), ("DOT", 451)]
)
def test_what_comes_later_keeps_no_password_either(scripted: StartScripted, verb: str, code: int) -> None:
    """Also a reply out of turn."""
    server = scripted(extensions=["AUTH PLAIN"])
    server.on(verb, f"{code} you are {PASSWORD}")

    async def dialogue() -> list[Outcome]:
        connection = await Connection.open(endpoint(server, password=PASSWORD))
        outcomes = await deliver(connection, job(), nothing)
        connection.abort()
        return list(outcomes.values())

    [outcome] = run(dialogue())
    assert not leaks(repr(outcome)), outcome
    assert STRUCK in repr(outcome)


SECRET = "SeCretPassWord-77x"
APP_PASSWORD = "abcd efgh ijkl mnop"
UMLAUTS = "äöüÄÖÜßéèñçø"
RUSSIAN = "пароль-секрет"
DISGUISES: dict[str, tuple[str, str | bytes, str]] = {  # a password, what a server says, what is left of it
    "beside a letter whose lower case is longer": (SECRET, f"İ {SECRET}", f"İ {STRUCK}"),
    "in capitals beside one whose upper case is longer": (SECRET, f"ß {SECRET.upper()}", f"ß {STRUCK}"),
    "in base64 beside such a letter": (SECRET, f"İ {in_base64(SECRET.encode())}", f"İ {STRUCK}"),
    "in capitals that are longer": ("heiße-straße", "HEISSE-STRASSE it is", f"{STRUCK} it is"),
    "with NUL between": (SECRET, "\0".join(SECRET), STRUCK),
    "with what is not seen between": (SECRET, "\u200b".join(SECRET), STRUCK),
    "with what is not seen between, as it is shown": (SECRET, r"\u200b".join(SECRET), STRUCK),
    "with accents between": (SECRET, "\u0301".join(SECRET), f"{STRUCK}"),
    "in wide letters": ("abcdefgh-77x", "no: ａｂｃｄｅｆｇｈ", f"no: {STRUCK}"),
    "without its many blanks": ("ab      cd      ef", "abcdef it is", f"{STRUCK} it is"),
    "behind what looks like an escape": ("41abcdef", r"\x41abcdef", rf"\x{STRUCK}"),
    "beside an escape that is no character": (SECRET, rf"\Uffffffff {SECRET}", rf"\Uffffffff {STRUCK}"),
    "as a name in DNS": ("pa$s.w(o)rd@x", r"pa\$s\.w\(o\)rd\@x.example", f"{STRUCK}.example"),
    "in UTF-8 beside another octet": (UMLAUTS, b"\xff " + UMLAUTS.encode(), rf"\xff {STRUCK}"),
    "in Latin-1": (UMLAUTS, UMLAUTS.encode("latin-1") + b".", f"{STRUCK}."),
    "a part in Latin-1, in capitals": (
        UMLAUTS,
        UMLAUTS[:6].swapcase().encode("latin-1") + b"\xdf\xe9",
        STRUCK,
    ),
    "in KOI8-R": (RUSSIAN, b"no: " + RUSSIAN.encode("koi8-r"), f"no: {STRUCK}"),
    "in an address": (APP_PASSWORD, "?p=abcd%20efgh%20ijkl%20mnop&x", f"?p={STRUCK}&x"),
    "in a form": (APP_PASSWORD, "p=abcd+efgh+ijkl+mnop", f"p={STRUCK}"),
    "in an address, each octet": (SECRET, "x" + SECRET.encode().hex("%"), f"x{STRUCK}"),
    "in base64 in an address": (">>>?>>>?>>>?", "x=Pj4%2BPz4%2BPj8%2BPj4%2F.", f"x={STRUCK}."),
    "in a page": ("a<b>c&d<e>f", "no: a&lt;b&gt;c&amp;d&lt;e&gt;f", f"no: {STRUCK}"),
    "quoted-printable": (SECRET, SECRET.encode().hex("=").upper(), STRUCK),
    "in a dump": (SECRET, SECRET.encode().hex(" "), STRUCK),
    "over lines with codes": (
        SECRET,
        f"no {SECRET[:7]}\n5.7.8 {SECRET[7:12]}\n5.5.4 {SECRET[12:]}",
        f"no {STRUCK}",
    ),
    "in UTF-8 read as Latin-1": (UMLAUTS, UMLAUTS.encode().decode("latin-1"), STRUCK),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_password_is_struck_in_whatever_form_it_is_shown(disguise: str) -> None:
    password, said, left = DISGUISES[disguise]
    text = said if isinstance(said, str) else _text(said)
    assert Credentials("user", password).strike(text) == left


@pytest.mark.parametrize(
    ("password", "said", "shown"),
    [
        ("550abcdefg", Reply(550, "abcdefg, no"), f"550 {STRUCK}, no"),
        ("5.1.1abcdefg", Reply(550, "abcdefg, no", "5.1.1"), f"550 {STRUCK}, no"),
        ("5.123.456", Reply(550, "no", "5.123.456"), "550 no"),
        ("5.123.456", Reply(550, "no", "5.1.1"), "550 5.1.1 no"),
    ],
)
def test_a_replys_codes_count_among_its_words(password: str, said: Reply, shown: str) -> None:
    """They are shown in one line."""
    assert str(Credentials("user", password).strike_reply(said, "RCPT")) == shown


def test_a_long_text_is_walked_over_once_whatever_the_number_of_runs() -> None:
    """A server chooses the text, and all accounts wait: what is looked at of it does not grow with the password."""

    class Counted(str):
        looked_at = 0

        def __getitem__(self, key: object) -> str:
            Counted.looked_at += 1
            return super().__getitem__(key)  # type: ignore[index]

    counts = []
    for password in ("abcdefgh-77x" * 2, "".join(chr(97 + at * at % 26) + str(at) for at in range(500))):
        Counted.looked_at = 0
        Credentials("user", password)._found(Counted("abcd" * 1000))
        counts.append(Counted.looked_at)
    assert counts[0] == counts[1] <= 4000


CONVERSATIONS = {  # how a server says the password before it is asked for
    "a greeting that is a prompt": ("GREETING", "334 {}"),
    "a greeting that is no SMTP": ("GREETING", "??? {}"),
    "an offer that is a go-ahead": ("EHLO", "354 {}"),
    "an answer to HELP that is a prompt": ("HELP", "334 {}"),
    "a method of AUTH": ("EHLO", "250-x\r\n250 AUTH {}"),
    "methods of AUTH in two lines": ("EHLO", "250-x\r\n250-AUTH SeCretPass\r\n250 AUTH Word-77x"),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_no_word_of_a_server_passes_unstruck(scripted: StartScripted, conversation: str) -> None:
    verb, said = CONVERSATIONS[conversation]
    server = scripted(extensions=["ENHANCEDSTATUSCODES"])
    server.on(verb, said.format(SECRET))
    fault = run(_refused(endpoint(server, password=SECRET)))
    assert STRUCK in reason_of(fault)
    assert "cretpass" not in reason_of(fault).lower()


def test_nor_one_of_a_server_that_speaks_in_clear_where_tls_was_meant(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    server = scripted()
    server.on("GREETING", f"421 {SECRET}")
    fault = run(_refused(endpoint(server, Security.TLS, client_tls, password=SECRET)))
    assert STRUCK in reason_of(fault)
    assert SECRET not in reason_of(fault)


def test_nor_one_of_a_certificate(
    scripted: StartScripted, client_tls: ssl.SSLContext, certificates: MakeContext
) -> None:
    server = scripted(tls=certificates("wrong name"), implicit_tls=True)
    fault = run(_refused(endpoint(server, Security.TLS, client_tls, password="Elsewhere")))
    assert f"it is for smtp.{STRUCK}.example" in str(fault)


@pytest.mark.parametrize(
    ("password", "shown"), [("00000012", "fewer bytes"), ("00000013", "at most 12 bytes")]
)
def test_nor_a_number_that_is_the_password(scripted: StartScripted, password: str, shown: str) -> None:
    server = scripted(extensions=["AUTH PLAIN", "SIZE 00000012"])

    async def dialogue() -> str | None:
        connection = await Connection.open(endpoint(server, password=password))
        shortcoming = connection.shortcoming(Envelope(USER, ("bob@example.net",), b"x" * 50))
        await connection.quit()
        return shortcoming

    assert f"takes {shown}; the message has 50" in (run(dialogue()) or "")


def said_by_a_wire(reply: str, password: str = SECRET, verb: str = "RCPT") -> Reply:
    async def said() -> Reply:
        wire = Wire(Credentials("user", password))
        wire.data_received(reply.encode() + b"\r\n")
        return await wire.reply(verb, 1)

    return run(said())


@pytest.mark.parametrize("at", [1960, 1983, 1990, 1999, 2000, 3990, 3999])
def test_no_password_is_cut_in_two(at: int) -> None:
    reply = said_by_a_wire("550 " + "x" * at + SECRET + "y" * 60_000)
    kept, _, mark = reply.text.rpartition(" [")
    assert set(kept) <= set(f"xy{STRUCK}")
    assert "more characters]" in mark
    assert len(reply.text) < 2100


def test_nor_where_all_that_was_kept_is_struck() -> None:
    """What was looked at ends within the password's last repetition."""
    reply = said_by_a_wire("550 " + SECRET * 3000)
    assert reply.text == f"{STRUCK} [{len(SECRET) * 3000 - 4000} more characters]"


def test_of_a_long_reply_as_much_is_kept_as_anybody_reads() -> None:
    assert said_by_a_wire("550 " + "x" * 2000).text == "x" * 2000
    assert said_by_a_wire("550 " + "x" * 2001).text == "x" * 2000 + " [1 more characters]"
    assert said_by_a_wire("550 " + "x" * 60_000).text == "x" * 2000 + " [58000 more characters]"
    assert said_by_a_wire(f"535 {SECRET}" + "x" * 60_000, verb="AUTH").text == ""


def test_an_offer_is_read_whole(scripted: StartScripted) -> None:
    many = [f"X{at}" for at in range(2000)]
    server = scripted(extensions=["AUTH PLAIN", *many, "PIPELINING"])

    async def dialogue() -> bool:
        connection = await Connection.open(endpoint(server, password=SECRET))
        await connection.quit()
        return connection._pipelines

    assert run(dialogue())


def test_whoever_connects_says_what_is_to_be_struck() -> None:
    """A `Wire` strikes: there is no other way from a server's words to ours, and none is opened without credentials."""
    package = Path(__file__).parents[2] / "postroom"
    for path in set(package.rglob("*.py")) - set(
        (package / "store").rglob("*.py")
    ):  # a database's connections
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(call, "func", None), "id", "")
            if isinstance(call, ast.Call) and name in ("connect", "Wire", "server_of"):
                assert any("credentials" in ast.unparse(given) for given in call.args), (
                    f"{path}:{call.lineno}"
                )
