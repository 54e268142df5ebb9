"""Replies to AUTH, and to a message that came without a log-in."""

from __future__ import annotations

from postroom.core.clock import MINUTE
from postroom.core.outcome import Meaning
from postroom.core.reply_rows.row import LOGIN, PASSWORD, SENDING, TOKEN, Row
from postroom.core.reply_rows.words import GOOGLE_CODES, MICROSOFT_OAUTH, RFC_4954, RFC_7628, one_of

_MAKE_ONE = (
    "Google wants an app password here: switch on 2-step verification and make one at "
    "myaccount.google.com/apppasswords"
)


def _wrong_password(provider: str | None, fix: str) -> Row:
    """Return what 535 means; what a first-timer is most likely to lack comes first."""
    return Row(
        Meaning.ACCOUNT,
        at=PASSWORD,
        code="535",
        provider=provider,
        explanation="the server does not accept this user name and password",
        fix=fix,
        source=RFC_4954,
    )


_AUTHORIZE = "postroom accounts authorize EMAIL"
# Log-ins with an access token (OAuth2). What the provider says of a grant when a token is asked for is in
# `accounts/oauth_refusals.py`; here are the mail server's own words on a token that the provider has given.
_TOKENS = (
    Row(
        Meaning.ACCOUNT,
        one_of(r"insufficient_scope", r"status 403"),
        at=TOKEN,
        code="5..",
        explanation="the access token was not given for sending over SMTP",
        fix=f"authorize the account again, and agree to all that is asked for: {_AUTHORIZE}",
        source=RFC_7628,
    ),
    Row(
        Meaning.ACCOUNT,
        at=TOKEN,
        code="535",
        provider="microsoft",
        explanation="Microsoft does not accept this access token for this mailbox",
        fix="see that the mailbox has SMTP AUTH switched on, and that the token is for it (an application needs "
        f"SMTP.SendAsApp, and the right to the mailbox by Add-MailboxPermission); then: {_AUTHORIZE}",
        source=MICROSOFT_OAUTH,
    ),
    Row(
        Meaning.ACCOUNT,
        at=TOKEN,
        code="535",
        explanation="the server does not accept this access token: it was revoked, is for another mailbox, or was not "
        "given for mail",
        fix=f"authorize the account again, logged in as the mailbox itself: {_AUTHORIZE}",
        source=RFC_7628,
    ),
)

LOGINS = (
    Row(
        Meaning.ACCOUNT,
        at=PASSWORD,
        code="534|535",
        enhanced=r"5\.7\.9",
        provider="google",
        explanation="the server wants an app password, not the account's own",
        fix=_MAKE_ONE,
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"application-specific password",
            r"app(?:lication)?[- ]?password",
        ),
        at=PASSWORD,
        provider="google",
        explanation="the server wants an app password, not the account's own",
        fix=_MAKE_ONE,
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        at=PASSWORD,
        code="535",
        enhanced=r"5\.7\.8",
        provider="google",
        explanation="the server does not accept this user name and password",
        fix=_MAKE_ONE + ". One that worked is revoked when the account's password changes: make a new one",
        source="support.google.com/accounts/answer/185833",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"web browser",
            r"web ?login",
        ),
        at=LOGIN,
        code="53.",
        explanation="the provider wants somebody to log in with a browser first",
        fix="log in at the provider's web site, confirm that it is you, then: postroom accounts resume",
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.RATE,
        r"busy",
        at=LOGIN,
        explanation="the server is too busy to log anybody in",
        source="QQ, NetEase",
    ),
    Row(
        Meaning.RATE,
        r"too many",
        at=LOGIN,
        code="4..",
        period=2 * MINUTE,
        explanation="the account logs in more often than the server likes",
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="432",
        explanation="the server asks for a change of the password before it logs this account in",
        fix="log in once as the provider says (often with a mail program or a browser)",
        source=RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="538",
        explanation="the server wants an encrypted connection for the log-in",
        fix="set the row's security to starttls or tls",
        source=RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"try again later",
            r"temporar\w{1,30} (?:locked|blocked|disabled|suspended|denied)",
        ),
        at=LOGIN,
        code="5..",
        explanation="the provider takes no log-ins from this account for now, often after several with a wrong password",
        fix="wait as long as the provider says, see that the password is right (postroom accounts set EMAIL, or its row of "
        "data.csv), then: postroom accounts resume",
        source=RFC_4954,
    ),
    *_TOKENS,
    _wrong_password(
        "yahoo", "Yahoo wants an app password: login.yahoo.com/account/security, Generate app password"
    ),
    _wrong_password(
        "icloud", "Apple wants an app-specific password: account.apple.com, Sign-In and Security"
    ),
    _wrong_password(
        "fastmail", "Fastmail wants an app password: Settings, Privacy & Security, Manage app passwords"
    ),
    _wrong_password(
        "zoho",
        "with two-factor log-in Zoho wants an app password: accounts.zoho.com, Security, App passwords",
    ),
    _wrong_password(
        "microsoft",
        "with two-step verification Microsoft wants an app password: account.microsoft.com/security; many organisations "
        "take no passwords over SMTP at all",
    ),
    _wrong_password(
        "gmx",
        "switch on POP3 and IMAP for the mailbox in its settings on the web; with two-factor log-in, make an app password",
    ),
    _wrong_password(
        None,
        "if the provider has app passwords, it may want one in place of the mailbox's own; else compare the account's "
        "mailbox, user name and password with what a mail program uses, and change them: postroom accounts set EMAIL (or "
        "PATCH /v1/accounts/{id}), or its row of data.csv",
    ),
    Row(Meaning.ACCOUNT, at=LOGIN, code="5..", explanation="the server refuses the log-in", source=RFC_4954),
    Row(
        Meaning.ACCOUNT,
        at=SENDING,
        code="530|538",
        logged_in=False,
        explanation="the server wants a log-in, or an encrypted connection, before it takes messages",
        fix="set security to starttls or tls, and a user name and password",
        source=RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"auth\w{0,30} (?:is )?(?:required|needed|first)",
            r"(?:must|need to|please) (?:\w{1,30} ){0,3}(?:authenticate|log ?in|issue a starttls)",
            r"not (?:logged in|authenticated)",
            r"(?:log ?in|starttls) (?:is )?(?:required|first)",
            r"unauthenticated (?:senders|mail|user)",
        ),
        at=SENDING,
        code="5..",
        logged_in=False,
        explanation="the server wants a log-in, or an encrypted connection, before it takes messages",
        fix="set security to starttls or tls, and a user name and password",
        source=RFC_4954,
    ),
    Row(
        Meaning.MESSAGE,
        at=SENDING,
        code="530|534|535|538",
        transient=True,
        explanation="a server behind this one was refused its log-in",
        source=RFC_4954,
    ),
)
