"""The bytes are checked against the standard library's parser, and against attacks.

Headers are unfolded and decoded here with `email.header`, for the parsers of
`policy.default` differ by Python's patch release.
"""

from __future__ import annotations

import itertools
import random
import re
from binascii import a2b_base64, a2b_qp
from dataclasses import replace
from email import policy
from email.header import decode_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parseaddr, parsedate_to_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.core.account import Account
from postroom.core.address import Mailbox, header_fault, parse_mailbox
from postroom.core.errors import InvalidSubmission
from postroom.core.message import Submission
from postroom.intake.checks import body_is_text, check_not_empty
from postroom.mime.html_elements import OpenElements
from postroom.mime.html_page import Page
from postroom.mime.html_to_text import html_to_text
from postroom.mime.message import Content, UnsafeBytes, gate, render
from postroom.mime.text_part import MAX_LINE, text_part
from tests.soak import SOAK
from tests.steps import steps_of

ADA = parse_mailbox("ada@example.org")
BOB = parse_mailbox("bob@example.net")
CONTENT = Content(
    sender_name="Ada Lovelace",
    sender=ADA,
    recipients=(BOB,),
    subject="Hello",
    body="Hello, Bob.\n",
    is_html=False,
    message_id="1.2@example.org",
    date=1_700_000_000_123_456,
    boundary="=_0123456789abcdef",
)

NAUGHTY = [
    "",
    " ",
    "  leading",
    "trailing  ",
    "in  the  middle",
    "=?utf-8?q?literal?=",
    "=?utf-8?b?bGl0ZXJhbA==?=",
    "x=?utf-8?q?a?=y =?=",
    "?= =? ==",
    "_under_score =20",
    'quo"ted \\ back\\slash"',
    "Doe, John (the <third>); [x]: @home.",
    "a.b.c",
    "Ω≈ç√∫˜µ≤≥÷",
    "田中さんにあげて下さい",
    "👾 🙇 💁 👩‍👩‍👧‍👦 🏳️‍🌈",
    "ثم نفس سقطت",
    "\u202ertl\u202c \u200f\u200b\ufeff",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮",
    "e\u0301 and é",
    "\U0010ffff\ufffe\ue000",
    "<script>alert(0)</script>",
    "%s %n ${HOME} {0} `id` $(id)",
    "../../etc/passwd",
    "Robert'); DROP TABLE message;--",
    "From me",
    ".",
    "..",
    "--",
    "--=_0123456789abcdef",
    "Subject: x",
    "x" * 75,
    "x" * 2000,
    "x " * 500,
    "word " * 100 + "x" * 200,
    "ü" * 500,
    "x" * 60 + "ü" * 10,
    "😀" * 100,
    "NBSP\xa0here",
]

HEADER_TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")))
ASCII_TEXT = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=300)
WORDS = st.lists(st.text(alphabet="abc.<>=", min_size=1, max_size=80), max_size=40).map(" ".join)
ANY_HEADER = HEADER_TEXT | ASCII_TEXT | WORDS | st.sampled_from(NAUGHTY)
ANY_BODY = (
    st.text(alphabet=st.characters(codec="utf-8"))
    | st.text(alphabet="\r\n\t .a=\0\x0c\x7fü€")
    | st.lists(st.text(alphabet="abc =.\u00fc", max_size=1200), max_size=5).map("\n".join)
    | st.sampled_from(NAUGHTY)
)


def parse(mime: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(mime)


def field(mime: bytes, name: str) -> str:
    """The unfolded value of a header field that must be there once."""
    head = mime.partition(b"\r\n\r\n")[0].decode() + "\r\n"
    found = re.findall(rf"^{name}: ?((?:.*\r\n)(?:[ \t].*\r\n)*)", head, re.MULTILINE)
    assert len(found) == 1
    return str(found[0]).replace("\r\n", "")


def decoded(value: str) -> str:
    parts = decode_header(value) if "=?" in value else [(value, None)]
    return "".join(
        part if isinstance(part, str) else part.decode(charset or "ascii") for part, charset in parts
    )


def canonical(text: str) -> str:
    lines = re.sub("\r\n|\r", "\n", text)
    return lines if not lines or lines.endswith("\n") else lines + "\n"


def content_of(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode().replace("\r\n", "\n")


def header_lines(mime: bytes) -> list[bytes]:
    return mime.partition(b"\r\n\r\n")[0].split(b"\r\n")


@given(subject=ANY_HEADER)
@example(subject=" ")
def test_any_subject_comes_back(subject: str) -> None:
    mime = render(replace(CONTENT, subject=subject))
    gate(mime, smtputf8=False)
    assert decoded(field(mime, "Subject")) == subject
    assert all(len(line) <= 76 for line in header_lines(mime))


@given(name=ANY_HEADER)
def test_any_sender_name_comes_back(name: str) -> None:
    mime = render(replace(CONTENT, sender_name=name))
    gate(mime, smtputf8=False)
    phrase, address = parseaddr(field(mime, "From"))
    assert address == "ada@example.org"
    assert decoded(phrase) == name
    assert all(len(line) <= 76 for line in header_lines(mime))


@given(body=ANY_BODY)
def test_any_body_comes_back(body: str) -> None:
    mime = render(replace(CONTENT, body=body))
    gate(mime, smtputf8=False)
    message = parse(mime)
    assert not message.defects
    assert message.get_content_charset() == "utf-8"
    assert content_of(message) == canonical(body)


@given(html=ANY_BODY)
@example(html="<p>Hello</p>\n--=_0123456789abcdef\n--=_0123456789abcdef--\n")
def test_any_html_comes_back_beside_its_text(html: str) -> None:
    mime = render(replace(CONTENT, body=html, is_html=True))
    gate(mime, smtputf8=False)
    message = parse(mime)
    text_part, html_part = message.iter_parts()
    assert isinstance(text_part, EmailMessage)
    assert isinstance(html_part, EmailMessage)
    assert message.get_content_type() == "multipart/alternative"
    assert (text_part.get_content_type(), html_part.get_content_type()) == ("text/plain", "text/html")
    assert content_of(html_part) == canonical(html)
    assert content_of(text_part) == canonical(html_to_text(html))


@pytest.mark.parametrize("text", NAUGHTY, ids=ascii)
def test_naughty_strings_everywhere(text: str) -> None:
    mime = render(replace(CONTENT, subject=text, sender_name=text, body=text))
    gate(mime, smtputf8=False)
    assert decoded(field(mime, "Subject")) == text
    assert decoded(parseaddr(field(mime, "From"))[0]) == text
    assert content_of(parse(mime)) == canonical(text)


@pytest.mark.parametrize("text", ["Hello", "Grüße", "日本語" * 30, "two words", " x ", "=?utf-8?q?literal?="])
def test_the_default_policy_reads_subjects_too(text: str) -> None:
    mime = render(replace(CONTENT, subject=text))
    assert str(parse(mime)["Subject"]) == text


def test_head_of_a_plain_message() -> None:
    assert render(CONTENT) == (
        b"From: Ada Lovelace <ada@example.org>\r\n"
        b"To: bob@example.net\r\n"
        b"Subject: Hello\r\n"
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Message-ID: <1.2@example.org>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Hello, Bob.\r\n"
    )


@given(st.builds(replace, st.just(CONTENT), subject=ANY_HEADER, body=ANY_BODY, is_html=st.booleans()))
def test_same_content_same_bytes(message: Content) -> None:
    assert render(message) == render(replace(message))


@given(st.integers(min_value=0, max_value=4_102_444_800))
def test_date_is_the_instant(seconds: int) -> None:
    mime = render(replace(CONTENT, date=seconds * 1_000_000 + 999_999))
    assert parsedate_to_datetime(field(mime, "Date")).timestamp() == seconds
    assert field(mime, "Date").endswith("+0000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "ada@example.org"),
        ("Ada", "Ada <ada@example.org>"),
        ("Ada B. Lovelace", '"Ada B. Lovelace" <ada@example.org>'),
        ('Ada "the" \\', '"Ada \\"the\\" \\\\" <ada@example.org>'),
        ("Ädä", "=?utf-8?b?w4Rkw6Q=?= <ada@example.org>"),
        ("Ada Lövelace", "=?utf-8?q?Ada_L=C3=B6velace?= <ada@example.org>"),
    ],
)
def test_forms_of_a_name(name: str, value: str) -> None:
    assert field(render(replace(CONTENT, sender_name=name)), "From") == value


@pytest.mark.parametrize(
    "text", ["ü" * 300, "x" * 50 + "ü" * 3 + "y" * 200, "日" * 100, "😀" * 50, "a" * 300]
)
def test_each_encoded_word_stands_alone(text: str) -> None:
    value = field(render(replace(CONTENT, subject=text)), "Subject")
    words = value.split(" ")
    assert len(words) > 1
    assert all(len(word) <= 75 for word in words)
    assert "".join(decoded(word) for word in words) == text


def test_plain_subjects_stay_readable_when_folded() -> None:
    subject = "The quick brown fox jumps over the lazy dog " * 5 + "again"
    mime = render(replace(CONTENT, subject=subject))
    assert field(mime, "Subject") == subject
    assert 60 < max(map(len, header_lines(mime))) <= 76


def test_many_recipients_are_folded() -> None:
    mailboxes = tuple(parse_mailbox(f"{'r' * (i % 60)}{i}@example.net") for i in range(300))
    mime = render(replace(CONTENT, recipients=mailboxes))
    gate(mime, smtputf8=False)
    assert field(mime, "To").split(", ") == [mailbox.path for mailbox in mailboxes]
    assert all(len(line) <= 76 for line in header_lines(mime))
    assert len(header_lines(mime)) < 300


def test_longest_addresses_stay_on_lines_of_their_own() -> None:
    longest = parse_mailbox("a" * 64 + "@" + ".".join(["b" * 62] * 3))
    mime = render(replace(CONTENT, sender=longest, sender_name="ü" * 200, recipients=(longest, BOB, longest)))
    gate(mime, smtputf8=False)
    assert field(mime, "To") == f"{longest.path}, {BOB.path}, {longest.path}"
    assert parseaddr(field(mime, "From"))[1] == longest.path


@pytest.mark.parametrize(
    "text",
    [
        '"ada lovelace"@x.example',
        '"a@b"@x.example',
        '"a,b"@x.example',
        '"\\"\\\\"@x.example',
        "ada@[IPv6:::1]",
    ],
)
def test_unusual_addresses_read_as_one_each(text: str) -> None:
    mailbox = parse_mailbox(text)
    mime = render(replace(CONTENT, sender=mailbox, recipients=(BOB, mailbox, BOB)))
    found = [address.addr_spec for address in parse(mime)["To"].addresses]
    assert found == [BOB.path, mailbox.path, BOB.path]
    assert [address.addr_spec for address in parse(mime)["From"].addresses] == [mailbox.path]


def test_utf8_only_in_address_fields() -> None:
    jürgen = parse_mailbox("jürgen@bücher.example")
    mime = render(replace(CONTENT, sender_name="Jürgen", recipients=(jürgen,), subject="Grüße", body="Grüße"))
    gate(mime, smtputf8=True)
    with pytest.raises(UnsafeBytes, match="SMTPUTF8"):
        gate(mime, smtputf8=False)
    assert field(mime, "To") == "jürgen@xn--bcher-kva.example"
    assert [line for line in mime.split(b"\r\n") if not line.isascii()] == [b"To: " + jürgen.path.encode()]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("", "7bit"),
        ("plain\n\ttabs and = signs\n", "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("trailing \nspace", "quoted-printable"),
        ("trailing\t\r\ntab", "quoted-printable"),
        ("form\x0cfeed", "quoted-printable"),
        ("nul\0", "quoted-printable"),
        ("mostly ascii, söme nöt", "quoted-printable"),
        ("日本語テキスト", "base64"),
    ],
)
def test_transfer_encoding(body: str, encoding: str) -> None:
    mime = render(replace(CONTENT, body=body))
    assert field(mime, "Content-Transfer-Encoding") == encoding
    if encoding != "7bit":
        assert all(len(line) <= 76 for line in mime.split(b"\r\n"))


def test_the_shorter_encoding_is_taken() -> None:
    for share in range(0, 101, 5):
        body = ("ü" * share + "x" * (100 - share) + " \n") * 50
        sizes = len(render(replace(CONTENT, body=body)))
        data = canonical(body).replace("\n", "\r\n").encode()
        assert (
            sizes < 420 + min(len(data) * 4 // 3 * 78 // 76, len(data) + 2 * data.count(b"\xbc") * 2) * 1.12
        )


def test_a_boundary_in_a_part_is_replaced_the_same_way_each_time() -> None:
    html = f"<p>{CONTENT.boundary}</p>"
    message = replace(CONTENT, body=html, is_html=True)
    mime = render(message)
    boundary = parse(mime).get_boundary()
    assert boundary != CONTENT.boundary
    assert boundary is not None
    assert mime.count(boundary.encode()) == 4
    assert render(message) == mime
    assert parse(render(replace(message, body="<p>x</p>"))).get_boundary() == CONTENT.boundary


INJECTIONS = [
    "x\r\nBcc: eve@evil.example",
    "x\nBcc: eve@evil.example",
    "x\rBcc: eve@evil.example",
    "x\r\n\r\nbody",
    "x\r\n.\r\nMAIL FROM:<eve@evil.example>",
    "x\0",
    "x\u2028Bcc: eve@evil.example",
    "x\x85Bcc: eve@evil.example",
    "x\x0b\x0c\x1c\x1d\x1eBcc: eve@evil.example",
]


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_header_injection_is_refused_and_harmless_even_if_it_is_not(text: str) -> None:
    assert header_fault(text) is not None
    mime = render(replace(CONTENT, subject=text, sender_name=text, body="x"))
    gate(mime, smtputf8=False)
    assert len(re.findall(rb"^(?! )", mime.partition(b"\r\n\r\n")[0], re.MULTILINE)) == 8
    assert "Bcc" not in parse(mime)
    assert decoded(field(mime, "Subject")) == text


@pytest.mark.parametrize("where", ["subject", "sender_name", "body"])
def test_lone_surrogates_raise(where: str) -> None:
    for text in ("\ud800", "x \udfff y", "\udc80" * 100):
        with pytest.raises(UnicodeEncodeError):
            render(replace(CONTENT, **{where: text}))  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            render(replace(CONTENT, is_html=True, **{where: text}))  # type: ignore[arg-type]


def test_lone_surrogates_in_a_mailbox_raise() -> None:
    with pytest.raises(UnicodeEncodeError):
        render(replace(CONTENT, sender=Mailbox("\ud800", "example.org")))


SMUGGLED = [
    "".join(letters)
    for size in range(6 if SOAK else 5)
    for letters in itertools.product("\r\n\0.a", repeat=size)
]


def test_no_body_smuggles() -> None:
    for body in SMUGGLED:
        mime = render(replace(CONTENT, body=body))
        gate(mime, smtputf8=False)
        assert content_of(parse(mime)) == canonical(body)


def test_no_html_smuggles() -> None:
    for body in SMUGGLED[::3]:
        mime = render(replace(CONTENT, body=body, is_html=True))
        gate(mime, smtputf8=False)
        part = list(parse(mime).iter_parts())[1]
        assert isinstance(part, EmailMessage)
        assert content_of(part) == canonical(body)


@pytest.mark.parametrize(
    ("mime", "fault"),
    [
        (b"", "end with CRLF"),
        (b"x", "end with CRLF"),
        (b"x\n", "end with CRLF"),
        (b"a\rb\r\n", "bare"),
        (b"a\nb\r\n", "bare"),
        (b"a\n.\r\n", "bare"),
        (b"a\r\r\n", "bare"),
        (b"a\n\r\n", "bare"),
        (b"a\n\rb\r\n", "bare"),
        (b"a\0\r\n", "NUL"),
        (b"\xc3\xbc\r\n", "ASCII"),
        (b"x" * 999 + b"\r\n", "998"),
        (b"x\r\n" + b"x" * 999 + b"\r\n", "998"),
        (b"x\r\n" * 500 + b"x" * 999 + b"\r\nx\r\n", "998"),
        ((b"x" * 998 + b"\r\n") * 3 + b"x" * 999 + b"\r\n", "998"),
    ],
)
def test_gate_refuses(mime: bytes, fault: str) -> None:
    with pytest.raises(UnsafeBytes, match=fault):
        gate(mime, smtputf8=False)


@pytest.mark.parametrize("mime", [b"\r\n", b"x\r\n", b"x" * 998 + b"\r\n", (b"x" * 998 + b"\r\n") * 3])
def test_gate_lets_good_bytes_pass(mime: bytes) -> None:
    gate(mime, smtputf8=False)
    gate("ü\r\n".encode() + mime, smtputf8=True)


@given(st.lists(st.integers(min_value=0, max_value=1100), max_size=12))
def test_gate_finds_long_lines_wherever_they_are(lengths: list[int]) -> None:
    mime = b"".join(b"x" * length + b"\r\n" for length in lengths) + b"\r\n"
    if any(length > 998 for length in lengths):
        with pytest.raises(UnsafeBytes):
            gate(mime, smtputf8=False)
    else:
        gate(mime, smtputf8=False)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"x", b"."])).map(b"".join))
def test_gate_agrees_with_the_definition(mime: bytes) -> None:
    safe = re.fullmatch(rb"(?:[^\r\n\0]*\r\n)+", mime) is not None
    try:
        gate(mime, smtputf8=False)
    except UnsafeBytes:
        assert not safe
    else:
        assert safe


@pytest.mark.parametrize("line", [b"x" * 74 + b"\r\n", b"\r\n", b"x" * 998 + b"\r\n"])
def test_gate_takes_a_message_in_leaps_and_not_line_by_line(line: bytes) -> None:
    """A step of Python for each line would take a second for 25 MB."""
    size = 2**20
    steps = steps_of(lambda: gate(line * (size // len(line)), smtputf8=False))
    assert 0 < steps < 5 * size / 900


# Large texts, in pieces.


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of the least size that is more than a line's."""
    monkeypatch.setattr("postroom.mime.text_part._PIECE", MAX_LINE + 2)
    return MAX_LINE + 2


@pytest.mark.parametrize(
    "joint", ["x", "é", "=", " ", "\t", ".", "\n", "\r", "\r\n", " \n", "é\r", "\U0001f600", "From \n"]
)
@pytest.mark.parametrize("line", [1, 70, 997, 998, 999, 5000])
def test_a_text_in_pieces_is_the_text_at_once(
    joint: str, line: int, monkeypatch: pytest.MonkeyPatch, small_pieces: int
) -> None:
    chance = random.Random(line)
    text = "".join(
        joint + chance.choice("ab =é.\n") * chance.randrange(line) for _ in range(12_000 // line + 3)
    )
    head, *pieces = text_part(b"plain", text)
    assert all(piece.endswith(b"\r\n") for piece in pieces)
    monkeypatch.setattr("postroom.mime.text_part._PIECE", 1 << 30)
    assert head == text_part(b"plain", text)[0]
    encoded = b"".join(pieces)
    if b"7bit" not in head:
        assert (
            max(map(len, encoded.split(b"\r\n"))) <= 77
        )  # `b2a_qp` writes 74 octets and a "=20" behind them
        encoded = (a2b_base64 if b"base64" in head else a2b_qp)(encoded)
    canonical = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n") + "\n"
    assert encoded == canonical.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("body", ["x", "é", "x\r", " \n", "x\n"])
def test_nothing_is_done_over_a_large_text_at_once(body: str) -> None:
    """A step holds Python's lock for as long as it takes."""
    pieces = text_part(b"plain", body * 1_000_000)
    assert max(map(len, pieces)) < 1_000_000


def test_a_page_of_many_tags_keeps_few_of_them() -> None:
    page = "<p><b>x</b> <i>y</i></p>" * 2000
    elements = OpenElements(Page(), page)
    for _ in range(500):
        elements.start("b", "")
        elements.end("b")
    assert len(elements._formatting.elements) < 10
    assert html_to_text(page).count("x y") == 2000


def test_the_pieces_of_a_page_come_in_their_order() -> None:
    words = [f"word{number}" for number in range(10_000)]
    assert html_to_text("".join(f"<p>{word}</p>" for word in words)).split() == words


def test_a_long_text_of_a_link_is_followed_by_its_address() -> None:
    text = "<b>word </b>" * 5000
    assert html_to_text(f'<a href="https://a.example">{text}</a>').endswith("word <https://a.example>")


def _submission(body: str) -> Submission:
    return Submission(Account(1, "a@example.com"), ("b@example.com",), "", body, is_html=False)


def test_the_checks_of_a_large_text_see_all_of_its_pieces() -> None:
    blank = " " * 600_000
    check_not_empty(_submission(blank + "x"))
    with pytest.raises(InvalidSubmission, match="both empty"):
        check_not_empty(_submission(blank))
    with pytest.raises(InvalidSubmission, match="position 600000"):
        body_is_text(_submission(blank + "\udcff"))


@pytest.mark.parametrize("fault", ["\r", "\n", "\0", "é", "x" * 999], ids=["CR", "LF", "NUL", "8bit", "line"])
def test_gate_refuses_a_fault_wherever_it_is_in_a_large_message(fault: str) -> None:
    line = b"x" * 62 + b"\r\n"  # a piece ends right behind a CR
    mime = (line * 10_000)[1:]
    gate(mime, smtputf8=False)
    for at in (200_000, 262_144, 600_000):
        with pytest.raises(UnsafeBytes):
            gate(mime[:at].rpartition(b"x")[0] + fault.encode() + mime[at:], smtputf8=False)
