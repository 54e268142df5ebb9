"""`postroom accounts authorize`: give an account access tokens (OAuth2), stored only after a log-in with one has worked."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.completion import mailboxes
from postroom.core.account import Secret
from postroom.core.audit import Actor
from postroom.core.clock import DAY, MINUTE, system_clock
from postroom.core.errors import ConfigError, GrantRefused, NotFound, SMTPFault
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.core.text import counted, printable
from postroom.store.accounts import Accounts

if TYPE_CHECKING:
    from postroom.accounts.oauth_providers import Provider
    from postroom.accounts.oauth_requests import Client, TokenAnswer
    from postroom.core.account import Account
    from postroom.providers import Server
    from postroom.runtime.installation import Service
    from postroom.store.transaction import Transaction
    from postroom.worker.mail.connect import ServerConnector

_LARGEST: Final = 65_536  # octets of a service account's key file, and of a client secret
_NOWHERE: Final = 47811  # a port where nothing listens, for --paste
_TESTING: Final = 8 * DAY  # a grant that ends sooner is that of an app in "Testing"


@dataclass(frozen=True, slots=True)
class _Wish:
    """The options of one call."""

    paste: bool = False
    device: bool = False
    application: bool = False
    key_file: Path | None = None
    client_id: str | None = None
    client_secret_file: Path | None = None
    port: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """An account that is authorized, with its server and its client at the provider."""

    service: Service
    connector: ServerConnector
    account: Account
    server: Server
    provider: Provider
    client: Client
    wish: _Wish


@click.command()
@click.argument("mailbox", metavar="EMAIL", shell_complete=mailboxes)
@click.option(
    "--provider", type=click.Choice(["google", "microsoft", "custom"]), help="By default that of the server."
)
@click.option(
    "--paste", is_flag=True, help="No browser here: paste the address of the page that failed to load."
)
@click.option("--device", is_flag=True, help="Enter a code at the provider's page (not at Google).")
@click.option(
    "--client-credentials", "application", is_flag=True, help="As an application of the organisation."
)
@click.option(
    "--service-account", "key_file", type=click.Path(path_type=Path), help="Google's key file (JSON)."
)
@click.option("--client-id", help="A client of this account's own.")
@click.option(
    "--client-secret-file", type=click.Path(path_type=Path), help="The file with that client's secret."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Where the browser comes back, for ssh -L."
)
def authorize(mailbox: str, provider: str | None, **options: object) -> None:
    """Have the account EMAIL log in by OAuth2, with Gmail, Microsoft or another provider.

    Prints an address for a browser on this machine and waits until somebody has agreed there. The grant is stored only
    after a log-in over SMTP as EMAIL has worked with it.
    """
    import asyncio

    from postroom.runtime import installation

    wish = _Wish(**options)  # type: ignore[arg-type]
    if sum((wish.paste, wish.device, wish.application, wish.key_file is not None)) > 1:
        raise click.UsageError("give one of --paste, --device, --client-credentials and --service-account")
    service = installation.open_service(serving=True)
    try:
        asyncio.run(_authorize(service, _account(service, mailbox), provider, wish))
    finally:
        service.store.close()


def _account(service: Service, given: str) -> Account:
    """Return the account of a mailbox, or of an id where the mailbox has several."""
    found = [stored.account for stored in service.store.read(Accounts.all)]
    found = [
        account
        for account in found
        if given in (account.uid, account.email) or account.email == given.lower()
    ]
    if not found:
        raise NotFound(f"there is no account {given!r}")
    if len(found) > 1:
        ids = ", ".join(account.uid for account in found)
        raise NotFound(f"{given} has several accounts; name one by its id: {ids}")
    return found[0]


async def _authorize(service: Service, account: Account, named: str | None, wish: _Wish) -> None:
    from postroom.accounts.oauth_providers import provider_of_host
    from postroom.inbox.maildrop import FOLDER
    from postroom.settings import INBOX
    from postroom.worker.mail.connect import connector_for

    connector = connector_for(service.settings, service.store, service.vault, FOLDER)
    server = await connector.ask_server(account)
    if server.host == INBOX:
        raise ConfigError("host", f"{account.email} goes to the built-in inbox, which needs no log-in")
    name = named or ("google" if wish.key_file else provider_of_host(server.host))
    provider, client = _client(service, name, wish)
    task = _Task(service, connector, account, server, provider, client, wish)
    grant, answer, secret = _ask(task)
    where = await _log_in(task, answer)
    _store(task, grant, answer, secret)
    click.echo(printable(f"{account.email} logs in by OAuth2 at {where}; the grant is stored"), err=True)
    _warn_of_end(answer)


def _client(service: Service, name: str, wish: _Wish) -> tuple[Provider, Client]:
    from postroom.accounts.oauth_providers import provider_named
    from postroom.accounts.oauth_requests import Client
    from postroom.core.files import read_plain

    provider = provider_named(name, service.settings)
    secret = None if wish.client_id else provider.secret
    if wish.client_secret_file is not None:
        secret = Secret(read_plain(wish.client_secret_file, _LARGEST).decode().strip())
    client_id = wish.client_id or provider.client_id
    if not client_id and wish.key_file is None:
        variable = "POSTROOM_OAUTH_CLIENT_ID" if name == "custom" else f"POSTROOM_{name.upper()}_CLIENT_ID"
        raise ConfigError(variable, "names the OAuth client that accounts log in with, and is not set")
    return provider, Client(client_id, secret)


def _ask(task: _Task) -> tuple[OAuthGrant, TokenAnswer, Secret | None]:
    """Return the grant without its secrets, the first token, and the secret to keep."""
    from postroom.accounts import oauth_authorize

    kind = GrantKind.REFRESH_TOKEN
    if task.wish.key_file is not None:
        return _ask_as_service_account(task, task.wish.key_file)
    if task.wish.application:
        kind, answer = GrantKind.CLIENT_CREDENTIALS, _ask_as_application(task)
    else:
        answer = _ask_person(task)
        oauth_authorize.check_answer(task.provider, answer)
    grant = _grant(task, kind, task.provider.token_url, task.client.id)
    return grant, answer, None if task.wish.application else answer.refresh_token


def _grant(task: _Task, kind: GrantKind, token_url: str, client_id: str) -> OAuthGrant:
    scope = task.provider.scope_of(kind)
    return OAuthGrant(task.account.id, task.provider.name, kind, token_url, client_id, scope)


def _ask_person(task: _Task) -> TokenAnswer:
    from postroom.accounts import oauth_authorize as flow

    provider, client, email = task.provider, task.client, task.account.email
    if task.wish.device:
        device = flow.begin_device(provider, client)
        click.echo(f"Open {device.url} as {email} and enter the code {device.user_code}")
        return flow.wait_for_device(provider, client, device)
    if not provider.authorize_url:
        raise ConfigError("POSTROOM_OAUTH_AUTHORIZE_URL", "is needed where a person agrees")
    if task.wish.paste:
        authorization = flow.begin(
            provider, client, flow.redirect_uri(provider, task.wish.port or _NOWHERE), email
        )
        click.echo(f"Open this address as {email}, and agree:\n\n{authorization.url}\n")
        address = click.prompt("The page that comes then fails to load. Paste its address", err=True)
        return flow.exchange(provider, client, authorization, flow.code_in(authorization, address))
    with flow.listening(task.wish.port) as server:
        uri = flow.redirect_uri(provider, server.server_address[1])
        authorization = flow.begin(provider, client, uri, email)
        click.echo(
            f"Open this address in a browser on this machine as {email}, and agree:\n\n{authorization.url}\n"
        )
        address = flow.wait_for_address(server)
    return flow.exchange(provider, client, authorization, flow.code_in(authorization, address))


def _ask_as_application(task: _Task) -> TokenAnswer:
    from postroom.accounts.oauth_requests import client_credentials

    if task.provider.name == "google":
        raise ConfigError(
            "--client-credentials", "Google has service accounts instead: --service-account FILE"
        )
    if task.provider.name == "microsoft" and task.service.settings.microsoft_tenant in (
        "common",
        "organizations",
        "consumers",
    ):
        raise ConfigError(
            "POSTROOM_MICROSOFT_TENANT", "must be the organisation's domain or id for client credentials"
        )
    scope = task.provider.scope_of(GrantKind.CLIENT_CREDENTIALS)
    grant = _grant(task, GrantKind.CLIENT_CREDENTIALS, task.provider.token_url, task.client.id)
    return _explained(grant, lambda: client_credentials(task.provider.token_url, task.client, scope))


def _ask_as_service_account(task: _Task, path: Path) -> tuple[OAuthGrant, TokenAnswer, Secret | None]:
    from postroom.accounts.oauth_requests import service_account

    issuer, key, token_url = _service_account_in(path)
    kind, account = GrantKind.SERVICE_ACCOUNT, task.account
    grant = _grant(task, kind, token_url, issuer)
    answer = _explained(
        grant,
        lambda: service_account(
            token_url,
            issuer,
            key,
            mailbox=account.username or account.email,
            scope=grant.scope,
            now=system_clock(),
        ),
    )
    return grant, answer, key


def _service_account_in(path: Path) -> tuple[str, Secret, str]:
    """Return name, private key and token endpoint of a key file. Raises ConfigError, which repeats nothing of it."""
    from postroom.core.files import read_plain
    from postroom.http_client import check_url

    try:
        found = json.loads(read_plain(path, _LARGEST))
        values = [found[name] for name in ("client_email", "private_key", "token_uri")]
        if not all(isinstance(value, str) for value in values):
            raise TypeError
        check_url(values[2])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(str(path), "is not the key file (JSON) of a service account") from None
    return values[0], Secret(values[1]), values[2]


def _explained(grant: OAuthGrant, ask: Callable[[], TokenAnswer]) -> TokenAnswer:
    from postroom.accounts.oauth_refusals import explain_refusal
    from postroom.accounts.oauth_requests import ProviderRefused

    try:
        return ask()
    except ProviderRefused as refused:
        raise GrantRefused(explain_refusal(grant, refused.error, refused.description)) from None


async def _log_in(task: _Task, answer: TokenAnswer) -> str:
    """Log in over SMTP with the token, and return where. Raises GrantRefused with the mailbox that it belongs to."""
    from postroom.accounts.oauth import AccessToken
    from postroom.core.classify import classify_fault
    from postroom.core.outcome import Deferred, Failed
    from postroom.core.replies import Circumstances

    token = AccessToken(answer.access_token, b"", task.provider.name, is_new=True)
    try:
        connection = await task.connector.log_in_with(task.account, task.server, token)
    except SMTPFault as fault:
        outcome = classify_fault(fault, Circumstances(task.server.host))
        assert isinstance(outcome, Deferred | Failed)
        whose = _whose(task, answer)
        email = task.account.username or task.account.email
        other = ""
        if whose is not None and whose.lower() != email.lower():
            other = f"this token belongs to {whose}: log in at the provider as {email}. "
        raise GrantRefused(
            f"{other}The log-in as {email} did not work, and nothing was stored: {outcome.reason}"
        ) from None
    await connection.quit()
    if not connection.authenticated:
        raise GrantRefused(f"{connection.where} asks for no log-in, and nothing was stored")
    return str(connection.where)


def _whose(task: _Task, answer: TokenAnswer) -> str | None:
    from postroom.accounts.oauth_requests import whose_token

    if answer.email is not None or task.provider.userinfo_url is None:
        return answer.email
    return whose_token(task.provider.userinfo_url, answer.access_token)


def _store(task: _Task, grant: OAuthGrant, answer: TokenAnswer, secret: Secret | None) -> None:
    """Store the grant, let the account go on, and write down who did it, in one transaction."""
    from postroom.accounts.oauth import context

    account, vault, now = task.account, task.service.vault, system_clock()
    own_secret = task.client.secret if task.wish.client_secret_file is not None else None

    def sealed(text: Secret | None, name: str) -> bytes | None:
        return vault.seal(text.reveal(), context(account.uid, name)) if text else None

    grant = replace(
        grant,
        client_secret=sealed(own_secret, "client_secret"),
        grant_secret=sealed(secret, "grant_secret"),
        access_token=sealed(answer.access_token, "access_token"),
        expires_at=now + answer.lifetime - MINUTE,
    )
    worked_with = task.connector.unnamed_server(account)
    actor = Actor(f"user {getpass.getuser()}", socket.gethostname())
    detail = {"provider": grant.provider, "kind": grant.kind.value}

    def work(transaction: Transaction) -> None:
        transaction.oauth_grants.set(grant, now)
        transaction.accounts.note_worked(account.id, now, worked_with)
        transaction.audit.append(actor, "account.authorize", account.email, now, detail)

    task.service.store.write(work)


def _warn_of_end(answer: TokenAnswer) -> None:
    if answer.grant_lifetime is not None and answer.grant_lifetime < _TESTING:
        days = counted(max(1, round(answer.grant_lifetime / DAY)), "day")
        click.echo(
            f'this grant ends in {days}: the app is in "Testing". Set it to "In production" (Google Auth Platform, '
            "Audience) and authorize again",
            err=True,
        )
