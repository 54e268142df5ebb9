"""The documentation says what the program does: settings, calls, commands, events, errors, targets, links."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from postroom.accounts import rights
from postroom.accounts.csv_row import COLUMNS
from postroom.accounts.vault import Vault
from postroom.cli.main import cli
from postroom.core.errors import Rejected
from postroom.core.events import FIELDS, EventKind
from postroom.core.message import MessageState
from postroom.runtime.web_process import IDLE_WITHIN_MS
from postroom.settings import Settings, variables
from postroom.store.store import open_store
from postroom.web import problems
from postroom.web.app import create_app, most_body_bytes
from tests.controls.mutations import CONTROLS
from tests.servers.installation import Client
from tests.servers.programs import end, free_port
from tests.servers.waiting import eventually
from tools import tree

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADMIN_API = (ROOT / "docs" / "admin-api.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows below the head of the first table after a heading, each as its cells."""
    after = text.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert found, f"no table after {heading!r}"
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in found[0].splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


# --- The tree.


def test_the_page_of_the_tree_is_what_is_on_disk() -> None:
    assert tree.PAGE.read_text(encoding="utf-8") == tree.page(), "run `python -m tools.tree`"


# --- Settings.


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and an environment without settings."""
    for setting in Settings.model_fields:
        for name in variables(setting):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_setting_is_documented_with_its_variables_and_nothing_else_is() -> None:
    documented = {tuple(names(row[0])) for row in table(CONFIGURATION, "## Settings")}
    assert documented == {variables(setting) for setting in Settings.model_fields}


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_the_default_that_is_documented_is_the_default(
    setting: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {tuple(names(row[0])): row[1] for row in table(CONFIGURATION, "## Settings")}
    cell = defaults[variables(setting)]
    default = getattr(Settings(), setting)
    if default is None:
        assert cell, f"{variables(setting)[0]} has no words in place of a default"
        assert not re.fullmatch("`[^`]*`", cell), f"{variables(setting)[0]} has no fixed default"
        return
    written = re.fullmatch("`([^`]+)`", cell)
    assert written, f"the default of {variables(setting)[0]} must stand between backticks"
    monkeypatch.setenv(variables(setting)[0], written[1])
    assert getattr(Settings(), setting) == default


# --- data.csv.


def test_every_column_of_data_csv_is_documented() -> None:
    documented = [names(row[0]) for row in table(CONFIGURATION, "## `data.csv`")]
    assert documented == [[column] for column in COLUMNS]


# --- The API.


def test_every_route_is_documented(bare: Path) -> None:
    settings = Settings()
    store = open_store("sqlite:///test.db")
    app = create_app(settings, store, Vault.open(settings, bare / "var"))
    store.close()
    calls = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    admin = {call.replace("<", "{").replace(">", "}") for call in calls if " /v1/" in call}
    assert _call_headings(ADMIN_API) == admin
    for text in API, README:
        assert _call_headings(text) == {call for call in calls if " /v1/" not in call}


def _call_headings(text: str) -> set[str]:
    return set(re.findall(r"^#+ `((?:GET|POST|PUT|PATCH|DELETE) [^`]+)`$", text, re.MULTILINE))


def test_the_table_of_rights_is_the_one_that_is_asked() -> None:
    written = [f"| {' | '.join(row)} |" for row in table(ADMIN_API, "## Rights")]
    assert written == rights.table()


@pytest.mark.parametrize("text", [README, API], ids=["README", "api"])
def test_every_status_is_documented(text: str) -> None:
    heading = (
        "### `GET /email-status/<request_id>`" if text is README else "## `GET /email-status/<request_id>`"
    )
    documented = [names(row[0])[0].split()[0] for row in table(text, heading)]
    assert documented == [state.value for state in MessageState]


def problem_types() -> set[str]:
    """Return every type that a problem document can have, read off `core/errors.py` and `web/problems.py`."""
    codes = {kind.code for kind in _descendants(Rejected)}
    for call in _calls(Path(problems.__file__).read_text(encoding="utf-8")):
        if ast.unparse(call.func) in ("problem", "_CODES.get"):
            codes |= _code(call.args[1])
    codes |= set(problems._CODES.values())
    return {f"urn:problem:postroom:{code.replace('_', '-')}" for code in codes}


def _code(argument: ast.expr) -> set[str]:
    """Return the code that an argument spells out; one that comes from a table is found there."""
    if isinstance(argument, ast.Constant):
        assert isinstance(argument.value, str)
        return {argument.value}
    assert ast.unparse(argument) in ("code", "error.code", "QuotaExceeded.code"), ast.unparse(argument)
    return set()


def _descendants(kind: type[Rejected]) -> set[type[Rejected]]:
    return {kind for child in kind.__subclasses__() for kind in (child, *_descendants(child))}


def _calls(source: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))


@pytest.mark.parametrize("text", [README, API], ids=["README", "api"])
def test_every_problem_type_is_documented_and_no_other(text: str) -> None:
    heading = "### Errors" if text is README else "## Errors"
    documented = {names(row[1])[0] for row in table(text, heading)}
    assert documented == problem_types()


def test_every_problem_type_has_a_section_in_the_api() -> None:
    sections = set(re.findall(r"^### (?:\d{3}|Other) ([a-z-]+)$", API, re.MULTILINE))
    assert {f"urn:problem:postroom:{section}" for section in sections} == problem_types()


# --- Events.


def kinds_in_sql() -> set[str]:
    """Return every kind of event that a statement or a trigger writes by itself: the first literal of its INSERT."""
    found: set[str] = set()
    for path in (ROOT / "postroom" / "store").rglob("*.sql"):
        found |= set(
            re.findall(r"INSERT INTO event \([^)]*\)[^;]*?'([a-z_]+)'", path.read_text(encoding="utf-8"))
        )
    return found


def test_statements_write_no_event_that_is_not_on_the_list() -> None:
    assert {"accepted", "sent", "held"} <= kinds_in_sql() <= {*map(str, EventKind)}


def test_every_event_is_documented_and_no_other() -> None:
    documented = {names(row[0])[0] for row in table(API, "## Events")}
    assert documented == {*map(str, EventKind)} == {*map(str, FIELDS)}


# --- The command line.


def commands(group: click.Command, words: str = "postroom") -> Iterator[tuple[str, click.Command]]:
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield f"{words} {name}", command
            yield from commands(command, f"{words} {name}")


COMMANDS = dict(commands(cli))


def documented_commands() -> dict[str, str]:
    """Return each command in the README's table, without its arguments, with what is said of it."""
    rows = table(README, "## The command line")
    return {re.sub(r" [\[A-Z].*", "", names(row[0])[0]): row[1] for row in rows}


def test_every_command_is_in_the_readme_and_no_other() -> None:
    assert documented_commands().keys() == COMMANDS.keys()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_is_in_the_readme(words: str) -> None:
    options = {
        name
        for parameter in COMMANDS[words].params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    said = documented_commands().get(words, "")
    assert options == {name for name in names(said) if name.startswith("-")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_command_that_there_is_not(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # it may tell of what is gone
        return
    for mention in re.findall(
        r"`postroom ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", page.read_text(encoding="utf-8")
    ):
        first = f"postroom {mention[0]}"
        assert first in COMMANDS, f"{page.name} names `{first}`"
        group = COMMANDS[first]
        if mention[1] and isinstance(group, click.Group):
            assert f"{first} {mention[1]}" in COMMANDS, f"{page.name} names `{first} {mention[1]}`"


# --- make.


def test_the_make_targets_that_are_documented_are_those_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    assert found
    snippets = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", README + CONTRIBUTING, re.DOTALL)
    code = "\n".join(part for pair in snippets for part in pair)
    mentioned = set(re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z-]+)", code, re.MULTILINE))
    assert mentioned == set(found[1].split())


def test_what_is_locked_is_what_the_metadata_allows() -> None:
    """Each name of requirements/run.in with the lowest version that was tried, and no other."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = dict(re.findall(r"^([a-z-]+)(?:\[.*\])?>=([0-9.]+)$", "\n".join(metadata), re.MULTILINE))
    assert len(lowest) == len(metadata)
    text = (ROOT / "requirements/run.in").read_text(encoding="utf-8")
    assert set(lowest) == set(re.findall(r"^([a-z_-]+)", text, re.MULTILINE)) - {"flit_core"}
    locked = dict(
        re.findall(r"^([a-z-]+)==([0-9.]+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    )
    for name, version in lowest.items():
        assert _parts(locked[name]) >= _parts(version), name


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


# --- deploy/


def test_nginx_refuses_what_we_refuse_and_as_we_do(bare: Path) -> None:
    """A request that is too large gets the same answer on either side of the limit."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    limit = re.search(r"client_max_body_size (\d+);", text)
    answer = re.search(r"return 413 '(.*)\\n';", text)
    assert limit
    assert answer
    assert int(limit[1]) == most_body_bytes(Settings())
    ours = problems.answer_to(RequestEntityTooLarge())
    assert json.loads(answer[1]) == json.loads(ours.body)


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_proxies_answer_for_what_stays_inside_as_we_do(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    answer = re.search(r"""(?:return 404 '(.*)\\n';|respond `(.*)` 404)""", text)
    assert answer
    assert json.loads(answer[1] or answer[2]) == json.loads(problems.answer_to(NotFound()).body)


def test_proxies_close_idle_connections_before_we_do() -> None:
    text = (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    found = re.search(r"^\s*keepalive (\d+)s$", text, re.MULTILINE)
    assert found
    assert int(found[1]) * 1000 <= IDLE_WITHIN_MS * 2 / 3


# --- Negative controls.


def test_every_negative_control_is_recorded_and_no_other() -> None:
    page = (ROOT / "docs" / "negative-controls.md").read_text(encoding="utf-8")
    recorded = [(row[0], names(row[2]), bool(row[3])) for row in table(page, "## The controls")]
    assert recorded == [
        (control.guard, control.test.split("::", 1)[::-1], control.quick) for control in CONTROLS
    ]


# --- The picture.


def test_the_picture_is_a_run_of_the_commands_of_the_readme() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "first-message.svg")
    shown = "\n".join("".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text"))
    assert curl(shown.replace("$ curl", "curl")) == curl(README)
    assert '"message": "Email request is being processed"' in shown
    example = re.search(r"```text\n(From: .*?)```", README, re.DOTALL)
    assert example
    assert _without_time(example[1]) in _without_time(shown)
    assert re.search(r"^[0-9a-f-]{36}  sent ", shown, re.MULTILINE)
    assert re.search(r"\((docs/first-message\.svg)\)", README)


# --- Links.

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(aim), f"{target} has no such heading"


# --- The first mail.


_SOURCE = re.compile(r"(?<![\w./*-])(?:\w+/)*\w+\.(?:py|sql|sh)(?![\w/])")


@cache
def _sources() -> frozenset[str]:
    """Return the sources of the project by their whole paths, and by each end of these that is a path too."""
    folders = ("postroom", "tests", "tools", "bench", "deploy")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    parts = [path.relative_to(ROOT).parts for path in [*paths, *ROOT.glob("*.py")]]
    return frozenset("/".join(each[start:]) for each in parts for start in range(len(each)))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],  # which tells of former names
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_source_that_a_page_names_exists(page: Path) -> None:
    """A page may say `store/store.py` as well as `postroom/store/store.py`."""
    code = " ".join(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))
    assert not [name for name in _SOURCE.findall(code) if "NNNN" not in name and name not in _sources()]


def test_a_source_that_is_not_there_is_seen() -> None:
    assert _SOURCE.findall("postroom/store/nothing.py") == ["postroom/store/nothing.py"]
    assert "store/store.py" in _sources()
    assert not {"postroom/store/nothing.py", "tore/store.py"} & _sources()


@pytest.fixture
def first_start(bare: Path) -> Iterator[Callable[[], str]]:
    """`postroom serve` in an empty folder; returns what it has said so far."""
    log = bare / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "postroom", "serve"],
            env={"PYTHONPATH": str(ROOT), "PORT": str(free_port()), "PATH": ""},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    yield lambda: log.read_text(encoding="utf-8")
    end(process, timeout=40)


def curl(text: str) -> list[str]:
    """Return the words of the first curl command in a text, port and key made alike."""
    found = re.search(r"^ *(curl http://\S+/send-email .*\\\n.*)$", text, re.MULTILINE)
    assert found, text
    words = re.sub(r":\d+/", ":PORT/", found[1])
    return re.sub(r'"key": "[^"]+"', '"key": "KEY"', words).replace("\\\n", " ").split()


def test_the_first_mail_goes_as_the_readme_says(first_start: Callable[[], str], bare: Path) -> None:
    said = eventually(lambda: "inbox show latest" in first_start() and first_start(), 30, "the greeting")
    assert isinstance(said, str)
    assert curl(README) == curl(said)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/send-email.*?-d '(.*?)'", said, re.DOTALL)
    assert found
    client = Client(int(found[1]))
    request_id = eventually(lambda: _accepted(client, json.loads(found[2])), 30, "202")
    eventually(lambda: _status(client, request_id) == "sent", 30, "the first mail to be sent")
    client.close()
    shown = _run("inbox", "show", "latest")
    example = re.search(r"```text\n(From: .*?)```", README, re.DOTALL)
    assert example
    assert _without_time(shown) == _without_time(example[1])


def _accepted(client: Client, document: dict[str, str]) -> Any:
    try:
        answer = client.call("POST", "/send-email", document)
    except OSError:
        return None
    assert answer.status == 202, answer
    assert answer.document.keys() == {"message", "request_id"}
    return answer.document["request_id"]


def _status(client: Client, request_id: str) -> str:
    return str(client.call("GET", f"/email-status/{request_id}").document["status"])


def _run(*words: str) -> str:
    command = [sys.executable, "-m", "postroom", *words]
    return subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    ).stdout


def _without_time(text: str) -> str:
    return re.sub(r"Received: \S+", "Received:", text).strip()


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[a-z_/]+\.py)`", page)
    assert len(named) > 30
    assert not [path for path in named if not (ROOT / path).is_file()]
