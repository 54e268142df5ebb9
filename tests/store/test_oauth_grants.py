"""OAuth2 grants in the database: one claim at a time, and a token is stored by the process that has the claim alone."""

from __future__ import annotations

import threading
from dataclasses import replace

from postroom.core.clock import MINUTE, SECOND
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.store.oauth_grants import OAuthGrants
from tests.store.database import NOW, Post

HOUR = 60 * MINUTE


def granted(post: Post, **changes: object) -> OAuthGrant:
    grant = OAuthGrant(
        account_id=post.anna,
        provider="google",
        kind=GrantKind.REFRESH_TOKEN,
        token_endpoint="https://tokens.example/token",
        client_id="client",
        scope="mail",
        client_secret=b"\x00client",
        grant_secret=b"\x00refresh",
    )
    grant = replace(grant, **changes)  # type: ignore[arg-type]
    post.store.write(OAuthGrants.set, grant, NOW)
    return replace(grant, updated_at=NOW, granted_at=NOW)


def stored(post: Post) -> OAuthGrant:
    grant = post.store.read(OAuthGrants.get, post.anna)
    assert grant is not None
    return grant


def claim(post: Post, now: int = NOW) -> bool:
    return post.store.write(OAuthGrants.claim_refresh, post.anna, now + MINUTE, now)


def keep(post: Post, claim: int, access: bytes = b"new", grant_secret: bytes | None = None) -> bool:
    return post.store.write(
        OAuthGrants.store_token,
        post.anna,
        claim,
        access_token=access,
        expires_at=NOW + HOUR,
        grant_secret=grant_secret,
        now=NOW,
    )


def test_a_grant_is_read_as_it_was_set_and_replaced_whole(post: Post) -> None:
    assert post.store.read(OAuthGrants.get, post.anna) is None
    first = granted(post)
    assert stored(post) == first
    second = granted(post, provider="custom", client_secret=None, access_token=b"a", expires_at=NOW + HOUR)
    assert stored(post) == second
    assert post.store.write(OAuthGrants.forget, post.anna)
    assert not post.store.write(OAuthGrants.forget, post.anna)
    assert post.store.read(OAuthGrants.get, post.anna) is None


def test_one_of_many_has_the_claim(post: Post) -> None:
    granted(post)
    won: list[bool] = []
    threads = [threading.Thread(target=lambda: won.append(claim(post))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 15 + [True]


def test_a_claim_ends_by_its_time_and_the_late_one_stores_nothing(post: Post) -> None:
    granted(post)
    assert claim(post)
    assert not claim(post, NOW + MINUTE - 1)
    assert claim(post, NOW + MINUTE)
    assert not keep(post, NOW + MINUTE, b"late")
    assert not post.store.write(OAuthGrants.note_refused, post.anna, NOW + MINUTE, "late", NOW)
    assert keep(post, NOW + 2 * MINUTE, b"in time")
    assert stored(post).access_token == b"in time"


def test_access_token_and_rotated_refresh_token_are_stored_together(post: Post) -> None:
    granted(post)
    assert claim(post)
    assert keep(post, NOW + MINUTE, grant_secret=b"rotated")
    assert (stored(post).access_token, stored(post).grant_secret) == (b"new", b"rotated")
    assert claim(post, NOW + HOUR)
    assert keep(post, NOW + HOUR + MINUTE, b"newer")
    assert stored(post).grant_secret == b"rotated", "none came this time"


def test_there_is_nothing_to_claim_where_the_token_is_fresh_or_the_grant_refused(post: Post) -> None:
    granted(post, access_token=b"a", expires_at=NOW + HOUR)
    assert not claim(post, NOW + 55 * MINUTE - 1)
    at = NOW + 55 * MINUTE
    assert claim(post, at)
    assert post.store.write(OAuthGrants.note_refused, post.anna, at + MINUTE, "revoked", NOW)
    assert (stored(post).refused, stored(post).access_token) == ("revoked", None)
    assert not claim(post, NOW + HOUR)
    granted(post)
    assert stored(post).refused is None
    assert claim(post)


def test_a_new_grant_ends_a_refresh_of_the_former_one(post: Post) -> None:
    granted(post)
    assert claim(post)
    again = granted(post, grant_secret=b"another")
    assert not keep(post, NOW + MINUTE)
    assert stored(post) == again


def test_a_released_claim_is_free(post: Post) -> None:
    granted(post)
    assert claim(post)
    post.store.write(OAuthGrants.release, post.anna, NOW + 1)
    assert not claim(post)
    post.store.write(OAuthGrants.release, post.anna, NOW + MINUTE)
    assert claim(post)


def test_a_token_that_was_refused_is_not_fresh_any_more_and_another_one_stays(post: Post) -> None:
    granted(post, access_token=b"a", expires_at=NOW + HOUR)
    assert not post.store.write(OAuthGrants.expire_token, post.anna, b"b", NOW)
    assert not claim(post)
    assert post.store.write(OAuthGrants.expire_token, post.anna, b"a", NOW)
    assert not stored(post).is_usable(NOW)
    assert claim(post)


def test_a_token_of_a_short_life_is_refreshed_when_half_of_it_is_over(post: Post) -> None:
    grant = granted(post, access_token=b"a", expires_at=NOW + 2 * MINUTE)
    assert grant.is_fresh(NOW + MINUTE)
    assert not claim(post, NOW + MINUTE)
    assert not grant.is_fresh(NOW + MINUTE + 1)
    assert claim(post, NOW + MINUTE + 1)


def test_a_token_is_used_until_shortly_before_its_end() -> None:
    grant = OAuthGrant(
        1,
        "google",
        GrantKind.REFRESH_TOKEN,
        "",
        "",
        "",
        access_token=b"a",
        expires_at=NOW,
        updated_at=NOW - HOUR,
    )
    for before, usable, fresh in (
        (6 * MINUTE, True, True),
        (4 * MINUTE, True, False),
        (20 * SECOND, False, False),
    ):
        assert (grant.is_usable(NOW - before), grant.is_fresh(NOW - before)) == (usable, fresh)
