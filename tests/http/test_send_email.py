"""`POST /send-email` and `GET /email-status/<id>`: the contract, every refusal, and never a 500."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Mapping
from email import message_from_bytes
from email.policy import default
from typing import Any

import apsw
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from postroom.accounts.csv_sync import AccountsFile
from postroom.core.errors import CommitUnknown, DiskFull, ReplacedSinceCommit, StoreUnavailable
from postroom.runtime.installation import Service
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.web.problems import answer_to
from tests.soak import examples

MESSAGE = "Email request is being processed"
MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}
JSON_TYPE = {"Content-Type": "application/json"}
FIELDS = ("subject", "recipient", "body", "is_html", "in_doubt", "key")

TITLES = {
    "malformed-submission": (400, "The request cannot be read"),
    "not-authenticated": (401, "The key is missing or unknown"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method Not Allowed"),
    "too-large": (413, "The message is too large"),
    "unsupported-media-type": (415, "Unsupported Media Type"),
    "invalid-submission": (422, "The message cannot be sent as it is"),
    "store-unavailable": (503, "The message could not be stored safely"),
}


def post(client: FlaskClient, body: Any, headers: Mapping[str, str] = {}) -> TestResponse:
    """Post bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/send-email", data=data, headers={**JSON_TYPE, **headers})


def check_accepted(response: TestResponse) -> str:
    """Return the id in a 202 that is exactly as promised."""
    assert response.status_code == 202, response.text
    assert response.mimetype == "application/json"
    document = response.get_json()
    assert list(document) == ["message", "request_id"]
    assert document["message"] == MESSAGE
    request_id: str = document["request_id"]
    assert request_id == str(uuid.UUID(request_id))
    return request_id


def check_problem(
    response: TestResponse, code: str, *faults: tuple[str, str], title: str | None = None
) -> dict[str, Any]:
    """Check a problem document member by member; `faults` are (field, part of its message)."""
    status, usual = TITLES[code]
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    document: dict[str, Any] = json.loads(response.data)
    assert list(document) == ["type", "title", "status", "detail", "errors"]
    assert document["type"] == f"urn:problem:postroom:{code}"
    assert document["title"] == (title or usual)
    assert document["status"] == status
    assert document["detail"]
    assert [error["field"] for error in document["errors"]] == [field for field, _ in faults]
    for error, (_, words) in zip(document["errors"], faults, strict=True):
        assert list(error) == ["field", "message"]
        assert words in error["message"]
    return document


def only_mail(database: apsw.Connection) -> Any:
    """Return the one mail there is, parsed."""
    ((mime,),) = database.execute("SELECT mime FROM content").fetchall()
    assert isinstance(mime, bytes)
    return message_from_bytes(mime, policy=default)


def check_kept_nothing(kept: Callable[[], int]) -> None:
    assert kept() == 0, "something of a refused mail is in the database"


# ---------------------------------------------------------------- accepted


def test_the_202_is_exactly_as_promised(client: FlaskClient, alice: str, kept: Callable[[], int]) -> None:
    request_id = check_accepted(post(client, {**MAIL, "key": alice}))
    assert uuid.UUID(request_id).version == 7
    assert kept() == 5  # message, content, delivery, job, event
    response = client.get(f"/email-status/{request_id}")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert json.loads(response.data) == {"request_id": request_id, "status": "queued"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"Authorization": "bearer   {} "},
        {"X-API-Key": "{}"},
        {"Authorization": "Bearer {}", "X-API-Key": "{}"},
        {"Authorization": "Basic bm90OmZvcnVz", "X-API-Key": "{}"},
    ],
)
@pytest.mark.parametrize("also", [{}, {"key": "{}"}, {"key": ""}, {"key": None}])
def test_the_key_may_come_in_a_header(
    client: FlaskClient, alice: str, headers: Mapping[str, str], also: Mapping[str, str | None]
) -> None:
    given = {name: value.format(alice) for name, value in headers.items()}
    key = {name: value and value.format(alice) for name, value in also.items()}
    check_accepted(post(client, {**MAIL, **key}, given))


@pytest.mark.parametrize(
    ("also", "headers"),
    [
        ({"key": "my old key"}, {}),
        ({}, {"X-API-Key": "my old key"}),
        ({}, {"Authorization": "Bearer my old key"}),
        ({"key": "my old key"}, {"X-API-Key": "my old key"}),
    ],
)
def test_a_key_may_have_spaces(
    client: FlaskClient, service: Service, also: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    path = service.settings.accounts_csv
    path.write_text("sep=;\nkey;email;app_password;host\n my old key ;carol@example.com;;inbox\n")
    AccountsFile(service.store, service.vault, path).sync()
    check_accepted(post(client, {**MAIL, **also}, headers))
    check_problem(post(client, {**MAIL, "key": "myoldkey"}), "not-authenticated", ("key", "not known"))


@pytest.mark.parametrize(
    ("body_key", "headers"),
    [
        ("bob", {"X-API-Key": "alice"}),
        ("bob", {"Authorization": "Bearer alice"}),
        (None, {"Authorization": "Bearer alice", "X-API-Key": "bob"}),
        ("unknown", {"X-API-Key": "alice"}),
    ],
)
def test_two_different_keys_are_refused(
    client: FlaskClient,
    alice: str,
    bob: str,
    kept: Callable[[], int],
    body_key: str | None,
    headers: Mapping[str, str],
) -> None:
    given = {
        name: value.replace("alice", alice).replace("bob", bob) if value != alice else value
        for name, value in headers.items()
    }
    document = MAIL | ({"key": {"bob": bob}.get(body_key, body_key)} if body_key else {})
    check_problem(post(client, document, given), "malformed-submission", ("key", "two different keys"))
    check_kept_nothing(kept)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/ld+json"])
def test_kinds_of_json(client: FlaskClient, alice: str, content_type: str) -> None:
    check_accepted(post(client, {**MAIL, "key": alice}, {"Content-Type": content_type}))


def test_a_byte_order_mark_is_no_fault(client: FlaskClient, alice: str) -> None:
    check_accepted(post(client, b"\xef\xbb\xbf" + json.dumps({**MAIL, "key": alice}).encode()))


def test_either_subject_or_body_may_be_empty(client: FlaskClient, alice: str) -> None:
    check_accepted(post(client, {**MAIL, "subject": "", "key": alice}))
    check_accepted(post(client, {**MAIL, "body": "", "key": alice}))


def test_an_html_mail_gets_a_text_part(client: FlaskClient, alice: str, database: apsw.Connection) -> None:
    html = "<h1>Größe</h1><p>Hello <b>you</b></p>"
    check_accepted(post(client, {**MAIL, "body": html, "is_html": True, "key": alice}))
    mail = only_mail(database)
    parts = {part.get_content_type(): part.get_content() for part in mail.iter_parts()}
    assert mail.get_content_type() == "multipart/alternative"
    assert list(parts) == ["text/plain", "text/html"]
    assert parts["text/html"].rstrip() == html
    assert "Größe" in parts["text/plain"]
    assert "<" not in parts["text/plain"]


def test_a_plain_mail_is_what_was_given(client: FlaskClient, alice: str, database: apsw.Connection) -> None:
    given = {"subject": "Grüße ✓", "recipient": "you@exämple.com", "body": "Zeile 1\nZeile <2>\n"}
    request_id = check_accepted(post(client, {**given, "key": alice}))
    mail = only_mail(database)
    assert (mail["Subject"], mail["From"], mail["To"]) == (
        "Grüße ✓",
        "alice@example.com",
        "you@xn--exmple-cua.com",
    )
    assert mail["Message-ID"] == f"<{request_id}@example.com>"
    assert mail.get_content().replace("\r\n", "\n") == given["body"]


# ---------------------------------------------------------------- refused: the JSON

SURROGATE = "\\ud800"
NOT_READABLE = {
    "empty": b"",
    "spaces": b"  \n",
    "garbage": b"subject=Hello",
    "cut": b'{"subject": "He',
    "trailing comma": b'{"subject": "Hello",}',
    "single quotes": b"{'subject': 'Hello'}",
    "comment": b'{"subject": "Hello" /* no */}',
    "two values": b"{} {}",
    "unquoted name": b"{subject: 1}",
    "bare line feed": b'{"subject": "a\nb"}',
    "NUL": b"\0",
    "NUL inside": b'{"subject": "a\0b"}',
    "array": b"[]",
    "array of an object": b'[{"subject": "Hello"}]',
    "string": b'"Hello"',
    "number": b"5",
    "null": b"null",
    "true": b"true",
    "NaN": b'{"subject": NaN}',
    "Infinity": b'{"subject": Infinity}',
    "-Infinity": b'{"subject": -Infinity}',
    "huge integer": b'{"subject": ' + b"9" * 100_000 + b"}",
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep inside": b'{"subject": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "invalid UTF-8": b'{"subject": "\xff\xfe"}',
    "overlong UTF-8": b'{"subject": "\xc0\xaf"}',
    "surrogates in UTF-8": b'{"subject": "\xed\xa0\x80"}',
    "Latin-1": '{"subject": "Grüße"}'.encode("latin-1"),
    "UTF-16": json.dumps(MAIL).encode("utf-16"),
    "UTF-16 without BOM": json.dumps(MAIL).encode("utf-16-le"),
    "UTF-32": json.dumps(MAIL).encode("utf-32"),
    "BOM alone": b"\xef\xbb\xbf",
    "two BOMs": b"\xef\xbb\xbf\xef\xbb\xbf{}",
    "lone bracket": b"]",
    "bad escape": rb'{"subject": "\x41"}',
    "half an escape": rb'{"subject": "\u12"}',
    "number with a plus": b'{"subject": +1}',
    "leading zero": b'{"subject": 012}',
    "hexadecimal": b'{"subject": 0x1}',
    "no digits after the point": b'{"subject": 1.}',
    "form feed": b"\x0c{}",
    "non-breaking space": b"\xc2\xa0{}",
}


@pytest.mark.parametrize("body", NOT_READABLE.values(), ids=NOT_READABLE.keys())
def test_what_is_not_a_json_object_is_refused(
    client: FlaskClient, alice: str, kept: Callable[[], int], body: bytes
) -> None:
    check_problem(post(client, body, {"X-API-Key": alice}), "malformed-submission")
    check_kept_nothing(kept)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"subject": "a", "subject": "b"}', "subject"),
        (b'{"key": "a", "body": "b", "key": "a"}', "key"),
        (rb'{"body": "a", "bod\u0079": "b"}', "body"),
        (rb'{"\ud800": 1, "\ud800": 2}', SURROGATE),
        (b'{"subject": {"x": 1, "x": 1}}', "x"),
    ],
)
def test_a_field_given_twice_is_refused_by_name(
    client: FlaskClient, alice: str, kept: Callable[[], int], body: bytes, field: str
) -> None:
    response = post(client, body, {"X-API-Key": alice})
    check_problem(response, "malformed-submission", (field, "more than once"))
    check_kept_nothing(kept)


# ---------------------------------------------------------------- refused: the fields

WRONG = [None, True, 5, 1.5, 1e400, 10**300, [], ["a"], {}, {"a": "b"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in FIELDS
        for value in WRONG
        if (field, value) not in (("is_html", True), ("in_doubt", None), ("key", None))
    ],
    ids=repr,
)
def test_wrong_types_are_refused_by_name(
    client: FlaskClient, alice: str, kept: Callable[[], int], field: str, value: Any
) -> None:
    body = json.dumps({**MAIL, field: value}).replace("Infinity", "1e400").encode()
    words = {"is_html": "must be true or false", "in_doubt": "must be one of retry, hold, fail"}
    check_problem(
        post(client, body, {"X-API-Key": alice}),
        "malformed-submission",
        (field, words.get(field, "must be a string")),
    )
    check_kept_nothing(kept)


@pytest.mark.parametrize("value", [False, 0, 5, [], ["a"], {}], ids=repr)
def test_a_key_that_is_no_string_is_malformed_and_not_unknown(client: FlaskClient, value: Any) -> None:
    check_problem(post(client, {**MAIL, "key": value}), "malformed-submission", ("key", "must be a string"))


@pytest.mark.parametrize("value", ["true", "false", 0, 1, "", "yes"], ids=repr)
def test_only_true_and_false_are_truth_values(client: FlaskClient, alice: str, value: Any) -> None:
    response = post(client, {**MAIL, "is_html": value, "key": alice})
    check_problem(response, "malformed-submission", ("is_html", "must be true or false"))


@pytest.mark.parametrize("value", ["", "Retry", "later", "retry "], ids=repr)
def test_a_policy_that_is_none_is_refused(client: FlaskClient, alice: str, value: str) -> None:
    response = post(client, {**MAIL, "in_doubt": value, "key": alice})
    check_problem(response, "malformed-submission", ("in_doubt", "must be one of retry, hold, fail"))


@pytest.mark.parametrize("value", ["retry", "hold", "fail", None])
def test_a_mail_keeps_its_own_policy(
    client: FlaskClient, alice: str, database: apsw.Connection, value: str | None
) -> None:
    check_accepted(post(client, {**MAIL, "in_doubt": value, "key": alice}))
    assert database.execute("SELECT in_doubt FROM message").fetchall() == [(value,)]


@pytest.mark.parametrize("field", ["subject", "recipient", "body"])
def test_a_missing_field_is_named(
    client: FlaskClient, alice: str, kept: Callable[[], int], field: str
) -> None:
    document = {name: value for name, value in MAIL.items() if name != field}
    response = post(client, {**document, "key": alice})
    check_problem(response, "malformed-submission", (field, "this field is required"))
    check_kept_nothing(kept)


def test_all_faulty_fields_are_named_together(
    client: FlaskClient, alice: str, kept: Callable[[], int]
) -> None:
    response = post(client, {"subject": 5, "to": "you@example.com", "key": alice})
    check_problem(
        response,
        "malformed-submission",
        ("subject", "must be a string"),
        ("recipient", "required"),
        ("body", "required"),
        ("to", "no such field"),
    )
    check_kept_nothing(kept)


@pytest.mark.parametrize("name", ["cc", "Subject", " subject", "", "is_HTML", "__class__", "grün"])
def test_an_unknown_field_is_refused_by_name(
    client: FlaskClient, alice: str, kept: Callable[[], int], name: str
) -> None:
    response = post(client, {**MAIL, name: "x", "key": alice})
    check_problem(response, "malformed-submission", (name, "no such field"))
    check_kept_nothing(kept)


def test_a_long_and_dangerous_field_name_is_made_safe(client: FlaskClient, alice: str) -> None:
    response = post(client, {**MAIL, "\r\nX: \x1b[31m" + "a" * 10_000: 1, "key": alice})
    (fault,) = json.loads(response.data)["errors"]
    assert response.status_code == 400
    assert len(fault["field"]) < 200
    assert fault["field"].isprintable()


@pytest.mark.parametrize(
    ("field", "status"), [("subject", 422), ("recipient", 422), ("body", 422), ("key", 401)]
)
def test_half_a_surrogate_pair_is_refused_by_name(
    client: FlaskClient, alice: str, kept: Callable[[], int], field: str, status: int
) -> None:
    document = {**MAIL, "key": alice, field: "a\ud800b"}
    code = "invalid-submission" if status == 422 else "not-authenticated"
    words = "surrogate" if status == 422 else "not known"
    check_problem(post(client, document), code, (field, words))
    check_kept_nothing(kept)


def test_half_a_surrogate_pair_in_a_name(client: FlaskClient, alice: str, kept: Callable[[], int]) -> None:
    response = post(client, {**MAIL, "a\udfff": "x", "key": alice})
    check_problem(response, "malformed-submission", ("a\\udfff", "half a surrogate pair"))
    check_kept_nothing(kept)


def test_a_whole_surrogate_pair_is_a_character(client: FlaskClient, alice: str) -> None:
    check_accepted(
        post(
            client, rb'{"subject":"\ud83d\ude00","recipient":"y@e.com","body":"","key":"%b"}' % alice.encode()
        )
    )


CONTROLS = [*map(chr, range(0x20)), "\x7f", "\x80", "\x85", "\x9f", "\u2028", "\u2029"]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda text: f"{ord(text):04x}")
@pytest.mark.parametrize("field", ["subject", "recipient"])
def test_control_characters_are_refused_in_header_fields(
    client: FlaskClient, alice: str, kept: Callable[[], int], field: str, control: str
) -> None:
    for value in (f"{MAIL[field]}{control}", f"{control}{MAIL[field]}", f"a{control}{MAIL[field]}"):
        response = post(client, {**MAIL, field: value, "key": alice})
        check_problem(
            response, "invalid-submission", (field, "must be one line" if field == "subject" else "contains")
        )
    check_kept_nothing(kept)


def test_injected_header_fields_are_refused(client: FlaskClient, alice: str, kept: Callable[[], int]) -> None:
    for value in ("a\r\nBcc: eve@example.com", "a\nBcc: eve@example.com", "a\rBcc: x", "a\r\n\r\nbody"):
        check_problem(
            post(client, {**MAIL, "subject": value, "key": alice}),
            "invalid-submission",
            ("subject", "must be one line"),
        )
    check_kept_nothing(kept)


BAD_ADDRESSES = [
    "",
    " ",
    "you",
    "@example.com",
    "you@",
    "you@@example.com",
    "you@example..com",
    "you@.example.com",
    "you@example.com.",
    ".you@example.com",
    "you.@example.com",
    "yo..u@example.com",
    "you@exa mple.com",
    "yo u@example.com",
    " you@example.com",
    "you@example.com ",
    "you@-example.com",
    "you@example-.com",
    "you@exam_ple.com",
    "you@192.0.2.1",
    "you@[192.0.2.256]",
    "you@[192.0.2.1",
    "you@[IPv6:::g]",
    "you@[IPv6:fe80::1%eth0]",
    "<you@example.com>",
    "You <you@example.com>",
    "you@example.com,eve@example.com",
    "you@example.com;eve@example.com",
    "you@example.com, eve@example.com",
    "d@e.f>,<g@h.i",
    "you(comment)@example.com",
    "=?utf-8?q?you?=@example.com",
    "@a.example,@b.example:you@example.com",
    '"you@example.com',
    'yo"u@example.com',
    '""@example.com',
    "you@example.com> BODY=8BITMIME",
    "a" * 65 + "@example.com",
    "you@" + "a" * 64 + ".com",
    "you@" + ".".join(["abcdefg"] * 40),
    "you@xn--0.com",
    "you@exa\u200bmple.com",
    "yo\u200bu@example.com",
    "yo\u202eu@example.com",
    "you\ud800@example.com",
    "a" * 10_000,
]


@pytest.mark.parametrize("address", BAD_ADDRESSES, ids=lambda text: ascii(text)[:40])
def test_a_bad_address_is_refused(
    client: FlaskClient, alice: str, kept: Callable[[], int], address: str
) -> None:
    response = post(client, {**MAIL, "recipient": address, "key": alice})
    check_problem(response, "invalid-submission", ("recipient", ""))
    check_kept_nothing(kept)


@pytest.mark.parametrize(("subject", "body"), [("", ""), (" ", " \r\n\t"), ("\u3000", "")])
def test_an_empty_mail_is_refused(
    client: FlaskClient, alice: str, kept: Callable[[], int], subject: str, body: str
) -> None:
    response = post(client, {**MAIL, "subject": subject, "body": body, "key": alice})
    check_problem(response, "invalid-submission", ("body", "both empty"))
    check_kept_nothing(kept)


# ---------------------------------------------------------------- refused: size


def test_a_mail_too_large_when_encoded(
    client: FlaskClient, alice: str, service: Service, kept: Callable[[], int]
) -> None:
    most = service.settings.max_message_bytes
    for body in ("x" * (most + 1), ("x" * 76 + "\n") * (most // 77), "é" * (most * 2 // 5)):
        document = json.dumps({**MAIL, "body": body, "key": alice}, ensure_ascii=False).encode()
        check_problem(post(client, document), "too-large", ("body", str(most)))
    check_kept_nothing(kept)
    check_accepted(post(client, {**MAIL, "body": "x" * (most // 2), "key": alice}))


def test_a_large_subject_is_too_large_too(client: FlaskClient, alice: str, kept: Callable[[], int]) -> None:
    response = post(client, {**MAIL, "subject": "e " * 600_000, "key": alice})
    assert (response.status_code, json.loads(response.data)["type"]) == (
        413,
        "urn:problem:postroom:too-large",
    )
    assert "besides the string `body`" in json.loads(response.data)["detail"]
    check_kept_nothing(kept)


def test_a_request_too_large_is_refused_by_its_length_alone(
    client: FlaskClient, alice: str, kept: Callable[[], int]
) -> None:
    response = client.post(
        "/send-email",
        input_stream=io.BytesIO(b"never read"),
        headers={**JSON_TYPE, "X-API-Key": alice},
        environ_overrides={"CONTENT_LENGTH": "100000000"},
    )
    check_problem(response, "too-large", title="Request Entity Too Large")
    check_kept_nothing(kept)


@pytest.mark.parametrize("client", ["flask"], indirect=True)  # ours does not read so far
@pytest.mark.parametrize("padding", [b" ", b"x"])
def test_a_request_without_a_length_is_refused_when_it_is_too_large(
    client: FlaskClient, alice: str, kept: Callable[[], int], padding: bytes
) -> None:
    """As the server gives a chunked body. Its beginning alone would be a mail: nothing of that may be accepted."""
    body = json.dumps({**MAIL, "key": alice}).encode() + padding * 3_000_000
    response = client.post(
        "/send-email",
        input_stream=io.BytesIO(body),
        headers={**JSON_TYPE, "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    check_problem(response, "too-large", title="Request Entity Too Large")
    check_kept_nothing(kept)


def test_a_request_without_a_length_is_read(client: FlaskClient, alice: str) -> None:
    response = client.post(
        "/send-email",
        input_stream=io.BytesIO(json.dumps({**MAIL, "key": alice}).encode()),
        headers={**JSON_TYPE, "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    check_accepted(response)


# ---------------------------------------------------------------- refused: who, where, how


@pytest.mark.parametrize(
    "key", ["wrong", "ALICE-KEY-0123456789", "é", "\0", "alice-key-0123456789 ", "x" * 9999]
)
def test_an_unknown_key(client: FlaskClient, kept: Callable[[], int], key: str) -> None:
    response = post(client, {**MAIL, "key": key})
    check_problem(response, "not-authenticated", ("key", "not known"))
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="postroom"'
    assert key not in response.text or len(key) < 3
    check_kept_nothing(kept)


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ({}, {}),
        ({"key": ""}, {}),
        ({"key": None}, {}),
        ({}, {"Authorization": "Bearer"}),
        ({}, {"Authorization": "Bearer "}),
        ({}, {"Authorization": "Basic YWxpY2U6eA=="}),
        ({}, {"X-API-Key": ""}),
    ],
)
def test_a_missing_key(
    client: FlaskClient, kept: Callable[[], int], key: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    response = post(client, {**MAIL, **key}, headers)
    check_problem(response, "not-authenticated", ("key", "no key"))
    assert "Authorization: Bearer" in json.loads(response.data)["detail"]
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="postroom"'
    check_kept_nothing(kept)


def test_a_stranger_learns_nothing_about_the_fields(client: FlaskClient) -> None:
    check_problem(post(client, {"nonsense": 5, "key": "wrong"}), "not-authenticated", ("key", "not known"))


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_another_method(client: FlaskClient, method: str) -> None:
    response = client.open("/send-email", method=method)
    check_problem(response, "method-not-allowed")
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    if method != "GET":
        response = client.open("/email-status/x", method=method)
        check_problem(response, "method-not-allowed")
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    "path", ["/", "/send-email/", "/email-status", "/email-status/", "/email-status/a/b", "/%ff"]
)
def test_another_address(client: FlaskClient, path: str) -> None:
    document = check_problem(client.get(path), "not-found", title="Not Found")
    for call in ("POST /send-email", "GET /docs", "GET /openapi.json"):
        assert call in document["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "json",
        "text/json",
    ],
)
def test_another_content_type(
    client: FlaskClient, alice: str, kept: Callable[[], int], content_type: str
) -> None:
    response = post(client, {**MAIL, "key": alice}, {"Content-Type": content_type})
    document = check_problem(response, "unsupported-media-type")
    assert "application/json" in document["detail"]
    check_kept_nothing(kept)


# ---------------------------------------------------------------- status and tenants


def test_another_tenants_mail_looks_like_none(client: FlaskClient, alice: str, bob: str) -> None:
    request_id = check_accepted(post(client, {**MAIL, "key": alice}))
    path = f"/email-status/{request_id}"
    for headers in ({}, {"X-API-Key": alice}, {"Authorization": f"Bearer {alice}"}):
        assert client.get(path, headers=headers).get_json() == {"request_id": request_id, "status": "queued"}
    foreign = client.get(path, headers={"X-API-Key": bob})
    unknown = client.get(f"/email-status/{uuid.uuid4()}", headers={"X-API-Key": bob})
    check_problem(foreign, "not-found", ("request_id", "no message"))
    assert foreign.data == unknown.data
    assert foreign.headers == unknown.headers
    wrong = client.get(path, headers={"X-API-Key": "wrong"})
    check_problem(wrong, "not-authenticated", ("key", "not known"))
    assert wrong.headers["WWW-Authenticate"] == 'Bearer realm="postroom"'
    two = client.get(path, headers={"X-API-Key": alice, "Authorization": f"Bearer {bob}"})
    check_problem(two, "malformed-submission", ("key", "two different keys"))


def test_the_case_of_an_id_does_not_matter(client: FlaskClient, alice: str) -> None:
    request_id = check_accepted(post(client, {**MAIL, "key": alice}))
    assert client.get(f"/email-status/{request_id.upper()}").get_json()["request_id"] == request_id


@pytest.mark.parametrize(
    "request_id",
    ["x", "0", "%00", "%ff", "null", "'%20OR%201=1%20--", "..", "%F0%9F%98%80", "a" * 5000, "%ED%A0%80"],
)
def test_an_unknown_id(client: FlaskClient, request_id: str) -> None:
    check_problem(client.get(f"/email-status/{request_id}"), "not-found", ("request_id", "no message"))


# ---------------------------------------------------------------- idempotency


def test_the_same_idempotency_key_gives_the_same_id(
    client: FlaskClient, alice: str, bob: str, database: apsw.Connection
) -> None:
    again = {"Idempotency-Key": "order-17"}
    first = check_accepted(post(client, {**MAIL, "key": alice}, again))
    assert check_accepted(post(client, {**MAIL, "key": alice}, again)) == first
    assert check_accepted(post(client, MAIL, {**again, "X-API-Key": alice})) == first
    assert check_accepted(post(client, {**MAIL, "key": bob}, again)) != first, "keys are each tenant's own"
    assert check_accepted(post(client, {**MAIL, "key": alice})) != first
    assert database.execute("SELECT count(*) FROM message").fetchall() == [(3,)]


@pytest.mark.parametrize(
    "other",
    [
        {"body": "Other"},
        {"subject": "Other"},
        {"recipient": "other@example.com"},
        {"is_html": True},
        {"in_doubt": "hold"},
    ],
)
def test_the_same_idempotency_key_for_another_mail(
    client: FlaskClient, alice: str, kept: Callable[[], int], other: Mapping[str, Any]
) -> None:
    headers = {"Idempotency-Key": "order-17", "X-API-Key": alice}
    check_accepted(post(client, MAIL, headers))
    before = kept()
    response = post(client, {**MAIL, **other}, headers)
    check_problem(response, "invalid-submission", ("Idempotency-Key", "used before"))
    assert kept() == before


def test_how_long_an_idempotency_key_may_be(client: FlaskClient, alice: str, kept: Callable[[], int]) -> None:
    for key in ("", "k" * 256, "k" * 5000):
        response = post(client, MAIL, {"Idempotency-Key": key, "X-API-Key": alice})
        check_problem(response, "invalid-submission", ("Idempotency-Key", "between 1 and 255"))
    check_kept_nothing(kept)
    check_accepted(post(client, MAIL, {"Idempotency-Key": "k" * 255, "X-API-Key": alice}))


def test_a_refused_mail_leaves_its_idempotency_key_free(client: FlaskClient, alice: str) -> None:
    headers = {"Idempotency-Key": "order-17", "X-API-Key": alice}
    check_problem(post(client, {**MAIL, "recipient": "x"}, headers), "invalid-submission", ("recipient", ""))
    check_accepted(post(client, MAIL, headers))


# ---------------------------------------------------------------- the store is away


def test_a_locked_database_is_a_503_and_nothing_is_accepted(
    client: FlaskClient, service: Service, alice: str, database: apsw.Connection, kept: Callable[[], int]
) -> None:
    engine = service.store._engine
    assert isinstance(engine, SQLiteEngine)
    engine._writer.set_busy_timeout(200)  # milliseconds, in place of five seconds
    database.execute("BEGIN IMMEDIATE")
    response = post(client, {**MAIL, "key": alice}, {"Idempotency-Key": "a"})
    document = check_problem(response, "store-unavailable")
    assert "nothing was accepted" in document["detail"]
    assert int(response.headers["Retry-After"]) >= 1
    check_problem(client.get("/email-status/x"), "not-found", ("request_id", ""))  # reading goes on
    database.execute("ROLLBACK")
    check_kept_nothing(kept)
    check_accepted(post(client, {**MAIL, "key": alice}, {"Idempotency-Key": "a"}))


# ---------------------------------------------------------------- never a 500

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
SUBMISSIONS = st.fixed_dictionaries(
    {
        "subject": ANY_JSON | st.just("a"),
        "recipient": ANY_JSON | st.just("y@e.com"),
        "body": ANY_JSON | st.just("b"),
    },
    optional={"is_html": ANY_JSON | st.booleans(), "in_doubt": ANY_JSON | st.just("hold"), "extra": ANY_JSON},
)
FUZZ = examples(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def check_civil(response: TestResponse) -> None:
    """Accepted, or refused in the client's terms with a problem document."""
    assert response.status_code == 202 or 400 <= response.status_code < 500, response.text
    assert response.status_code != 429, "a limit speaks, and nothing is tested"
    if response.status_code != 202:
        assert response.mimetype == "application/problem+json"
        document = json.loads(response.data)
        assert document["status"] == response.status_code
        assert document["type"].startswith("urn:problem:postroom:")


@FUZZ
@given(document=SUBMISSIONS | ANY_JSON)
def test_any_json_is_answered_civilly(client: FlaskClient, alice: str, document: Any) -> None:
    check_civil(post(client, document, {"X-API-Key": alice}))
    if isinstance(document, dict):
        check_civil(post(client, document))


@FUZZ
@given(body=st.binary() | st.text().map(str.encode), key=st.booleans())
def test_any_bytes_are_answered_civilly(client: FlaskClient, alice: str, body: bytes, key: bool) -> None:
    response = post(client, body, {"X-API-Key": alice} if key else {})
    check_civil(response)
    assert response.status_code != 202


@FUZZ
@given(
    position=st.integers(min_value=0, max_value=120),
    noise=st.binary(min_size=1, max_size=3),
    cut=st.integers(0, 3),
)
def test_a_damaged_mail_is_answered_civilly(
    client: FlaskClient, alice: str, position: int, noise: bytes, cut: int
) -> None:
    body = json.dumps({**MAIL, "is_html": False, "key": alice}).encode()
    check_civil(post(client, body[:position] + noise + body[position + cut :]))


HEADER_TEXT = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=300)


@FUZZ
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", "Content-Encoding", "Accept"]
        ),
        HEADER_TEXT | HEADER_TEXT.map("Bearer {}".format),
    ),
    path=st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=50),
)
def test_any_headers_are_answered_civilly(
    client: FlaskClient, alice: str, headers: dict[str, str], path: str
) -> None:
    check_civil(post(client, {**MAIL, "key": alice}, headers))
    response = client.get(
        "/email-status/" + "".join(f"%{byte:02x}" for byte in path.encode()), headers=headers
    )
    assert response.status_code in (400, 401, 404), response.text


# In the manner of JSONTestSuite: n_ must be refused, i_ may be either; none may be a 500.
N_CASES = [
    b"[1 true]",
    b"[a\xe5]",
    b'["": 1]',
    b'[""],',
    b"[,1]",
    b"[1,,2]",
    b'["x"]]',
    b'["",]',
    b'["x"',
    b"[x",
    b"[3[4]]",
    b"[1:2]",
    b"[,]",
    b"[-]",
    b'[   , ""]',
    b'["a",\n4\n,1,',
    b"[1,]",
    b"[*]",
    b"[1,\n1\n,1",
    b"[{}",
    b"[fals]",
    b"[nul]",
    b"[tru]",
    b"[++1234]",
    b"[+1]",
    b"[+Inf]",
    b"[-01]",
    b"[-1.0.]",
    b"[-2.]",
    b"[-NaN]",
    b"[.-1]",
    b"[.2e-3]",
    b"[0.1.2]",
    b"[0.3e+]",
    b"[0e]",
    b"[1.0e+]",
    b"[1eE2]",
    b"[1 000.0]",
    b"[2.e3]",
    b"[9.e+]",
    b"[Inf]",
    b"[NaN]",
    b"[\xef\xbc\x91]",
    b"[1+2]",
    b"[0x42]",
    b"[-Infinity]",
    b"[-1x]",
    b'["x", truth]',
    b'{[: "x"}\n',
    b'{"x", null}',
    b'{"x"::"b"}',
    b'{"a":"a" 123}',
    b"{key: 'value'}",
    b'{"a" b}',
    b'{:"b"}',
    b'{"a" "b"}',
    b'{"a":',
    b'{"a"',
    b"{1:1}",
    b"{9999E9999:1}",
    b"{null:null,null:null}",
    b'{"id":0,,,,,}',
    b"{'a':0}",
    b'{"id":0,}',
    b'{"a":"b"}/**/',
    b'{"a":"b"}#',
    b'{"a":"b",,"c":"d"}',
    b'{a: "b"}',
    b'{"a":"a',
    b'{ "foo" : "bar", "a" }',
    b'{"a":"b"}#{}',
    b" ",
    b'["\\uD800\\u"]',
    b'["\\uD800\\u1x"]',
    b'["\\a"]',
    b'["\\\x00"]',
    b'["\\x00"]',
    b'["\\\\\\"]',
    b'["\\\t"]',
    b'["\\u00A"]',
    b'["\\\xe5"]',
    b"[\xc3\xa9]",
    b'"',
    b"['single quote']",
    b"abc",
    b'["\x00"]',
    b'["\t"]',
    b'"\\UA66D"',
    b'""x',
    b"<.>",
    b"[<null>]",
    b"[1]x",
    b"[1]]",
    b'["asd]',
    b"aa\xcc\x8a",
    b"[True]",
    b"1]",
    b'{"x": true,',
    b"[][]",
    b"]",
    b"\xef\xbb\xbf{",
    b"\xe5",
    b"[",
    b"",
    b"2@",
    b"{}}",
    b'{"":',
    b'{"a":/*comment*/"b"}',
    b'{"a": true} "x"',
    b"['",
    b"[,",
    b'[{"":[{"":' * 20_000,
    b"[{",
    b'["a',
    b'["a"',
    b"{",
    b"{]",
    b"{,",
    b"{[",
    b'{"a',
    b'{"a"',
    b"{'a'",
    b"{'",
    b'["\\{["\\{["\\{["\\{',
    b"*",
    b'{"a":"b"}#{}',
    b'[\\u000A""]',
    b"[1",
    b"[ false, nul",
    b"\xe2\x81\xa0",
    b"\xef\xbb\xbf",
    b"[\x0c]",
]
I_CASES = [
    b"[123.456e78]",
    b"[0.4e00669999999999999999999999999999999999999999]",
    b"[-1e+9999]",
    b"[1.5e+9999]",
    b"[-123123e100000]",
    b"[123123123123123123123123123123]",
    b'["\\uDADA"]',
    b'["\\uD888\\u1234"]',
    b'["\xe6\x97\xa5\xd1\x88\xfa"]',
    b'["\\uD800\\n"]',
    b'["\\uDd1ea"]',
    b'["\\uDFAA"]',
    b'["\xff"]',
    b'["\xe0\xff"]',
    b'["\xfc\x80\x80\x80\x80\x80"]',
    b'["\xfc\x83\xbf\xbf\xbf\xbf"]',
    b'\xff\xfe[\x00"\x00\xe9\x00"\x00]\x00',
    b'\x00[\x00"\x00\xe9\x00"\x00]',
    b'["\x81"]',
    b"[" * 500 + b"]" * 500,
    b"\xef\xbb\xbf{}",
    b'{"a":"b","a":"c"}',
    b'{"a":0, "a":-0}',
    b'{"\\u0000": 1}',
    b"{}",
]


@pytest.mark.parametrize("body", N_CASES + I_CASES, ids=lambda body: ascii(body)[:40])
def test_json_test_suite(client: FlaskClient, alice: str, kept: Callable[[], int], body: bytes) -> None:
    response = post(client, body, {"X-API-Key": alice})
    assert response.status_code == 400
    check_civil(response)
    # The same where a value may stand.
    check_civil(post(client, b'{"subject": ' + body + b', "recipient": "y@e.com"}', {"X-API-Key": alice}))
    check_kept_nothing(kept)


@pytest.mark.parametrize(
    ("error", "title", "wait"),
    [
        (StoreUnavailable("away"), "The message could not be stored safely", "5"),
        (DiskFull(1, 2), "The disk of this service is nearly full", "60"),
        (CommitUnknown("lost"), "It is not known whether the message was stored", "5"),
        (ReplacedSinceCommit("moved"), "It is not known whether the message was stored", "5"),
    ],
)
def test_what_could_not_be_stored_is_told_from_what_may_have_been(
    error: Exception, title: str, wait: str
) -> None:
    answer = answer_to(error)
    document = json.loads(answer.body)
    assert (answer.status, document["title"], dict(answer.headers)["Retry-After"]) == (503, title, wait)
    assert document["type"] == "urn:problem:postroom:store-unavailable"
    is_unknown = isinstance(error, CommitUnknown | ReplacedSinceCommit)
    assert ("nothing was accepted" in document["detail"]) is not is_unknown


@pytest.mark.parametrize(
    "name", ["Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", "Content-Encoding"]
)
def test_a_header_in_use_that_is_not_ascii_is_refused_by_name(
    client: FlaskClient, alice: str, kept: Callable[[], int], name: str
) -> None:
    before = kept()
    answer = client.post("/send-email", json={**MAIL, "key": alice}, headers={name: "order-\xfc-8"})
    assert answer.status_code == 400
    assert json.loads(answer.data)["errors"][0]["field"] == name
    assert kept() == before
