-- Accounts and keys that are managed at run time (admin API, command line), beside those of data.csv.
-- A process of the version before goes on beside it: it sees the keys of data.csv as before, and none of the issued ones.

ALTER TABLE account ADD COLUMN uid TEXT;                -- its id in the API
ALTER TABLE account ADD COLUMN paused_by TEXT;          -- person or breaker; NULL: not paused, or by an earlier version (breaker)
ALTER TABLE account ADD COLUMN dkim_selector TEXT;
ALTER TABLE account ADD COLUMN closing_at BIGINT;       -- its deletion was asked for; its messages are still sent
ALTER TABLE account ADD COLUMN deleted_at BIGINT;       -- it is gone; the row stays for its messages

-- only sqlite
UPDATE account SET uid = lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' ||
    substr(lower(hex(randomblob(2))), 2) || '-a' || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6)));
-- end
-- only postgres
UPDATE account SET uid = CAST(gen_random_uuid() AS text);
ALTER TABLE account ALTER COLUMN uid SET DEFAULT CAST(gen_random_uuid() AS text);
-- end
CREATE UNIQUE INDEX account_uid ON account (uid);

CREATE TABLE account_alias (
    account_id  BIGINT NOT NULL REFERENCES account (id),
    email       TEXT NOT NULL,
    verified_at BIGINT,
    verified_by TEXT CHECK ((verified_by IS NULL) = (verified_at IS NULL)),   -- message or admin
    PRIMARY KEY (account_id, email)
);

-- How an account logs in by OAuth2. Each secret is encrypted for its row.
CREATE TABLE oauth_grant (
    account_id     BIGINT PRIMARY KEY REFERENCES account (id),
    provider       TEXT NOT NULL,                       -- google, microsoft, or custom
    kind           TEXT NOT NULL,                       -- refresh_token, client_credentials, service_account
    token_endpoint TEXT NOT NULL,
    client_id      TEXT NOT NULL,
    client_secret  {octets},                            -- encrypted; NULL: a public client, or the installation's
    scope          TEXT NOT NULL,
    grant_secret   {octets},                            -- encrypted: the refresh token, or the service account's private key
    access_token   {octets},                            -- encrypted
    expires_at     BIGINT,                              -- of the access token
    refreshing_by  BIGINT,                              -- until when one process may ask for a token, and no other does
    refused        TEXT,                                -- why the provider gives none any more
    updated_at     BIGINT NOT NULL
);

CREATE TABLE pool (
    id         {key},
    uid        TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    anchor_id  BIGINT REFERENCES account (id)           -- where its idempotency keys stand, whichever account sends
);

CREATE TABLE pool_member (
    pool_id    BIGINT NOT NULL REFERENCES pool (id),
    account_id BIGINT NOT NULL REFERENCES account (id),
    weight     INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),
    PRIMARY KEY (pool_id, account_id)
);

-- Keys that were issued by the API or the command line. Those of data.csv are in api_key.
CREATE TABLE issued_key (
    id                 {key},
    uid                TEXT NOT NULL UNIQUE,
    digest             {octets} NOT NULL UNIQUE,        -- HMAC-SHA256 under the installation's own random key
    name               TEXT NOT NULL,
    account_id         BIGINT REFERENCES account (id),  -- its owner; with a pool instead, or neither: the installation
    pool_id            BIGINT REFERENCES pool (id),
    scopes             TEXT NOT NULL,                   -- words, one space between them
    test               SMALLINT NOT NULL DEFAULT 0 CHECK (test IN (0, 1)),
    allowed_recipients TEXT,                            -- JSON list; NULL: all
    networks           TEXT,                            -- JSON list of CIDR; NULL: all
    daily_limit        INTEGER CHECK (daily_limit > 0), -- recipients in a rolling 24 h
    hint               TEXT NOT NULL,                   -- the last characters of the key, to tell it from others
    source             TEXT NOT NULL,                   -- api, cli, csv (taken over), or admin: the admin token
    created_at         BIGINT NOT NULL,
    expires_at         BIGINT,
    revoked_at         BIGINT,
    last_used_at       BIGINT,
    CHECK (account_id IS NULL OR pool_id IS NULL)
);

CREATE INDEX issued_key_account ON issued_key (account_id, id);

-- Issued keys that work no more, before their row says so: an insertion waits for nobody, however long an acceptance holds the row.
CREATE TABLE stopped_key (
    key_id BIGINT PRIMARY KEY REFERENCES issued_key (id),
    at     BIGINT NOT NULL
);

CREATE TABLE issued_key_usage (
    key_id     BIGINT NOT NULL REFERENCES issued_key (id),
    slot       BIGINT NOT NULL,                         -- ten-minute periods since the epoch
    recipients INTEGER NOT NULL CHECK (recipients >= 0),
    PRIMARY KEY (key_id, slot)
);

-- The same digest of a key of data.csv, under the installation's own key: it outlives a change of the secret key.
ALTER TABLE api_key ADD COLUMN own_digest {octets};
CREATE INDEX api_key_own_digest ON api_key (own_digest);

-- The issued key that a message was accepted with, and whether it only goes to the inbox in the database.
ALTER TABLE message ADD COLUMN key_id BIGINT;
ALTER TABLE message ADD COLUMN test SMALLINT;
CREATE INDEX message_test ON message (id) WHERE test = 1;

CREATE TABLE audit (
    id      {key},
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,                              -- `key NAME`, `admin token`, or `user NAME` of this machine
    source  TEXT NOT NULL,                              -- address of the client, or the host of a command
    action  TEXT NOT NULL,                              -- such as account.create
    target  TEXT,
    detail  TEXT,                                       -- JSON: what was changed; never a secret
    refused SMALLINT NOT NULL DEFAULT 0 CHECK (refused IN (0, 1))
);

CREATE INDEX audit_at ON audit (at);

-- What the doctor found about an account when it last looked.
CREATE TABLE finding (
    account_id BIGINT PRIMARY KEY REFERENCES account (id),
    at         BIGINT NOT NULL,
    findings   TEXT NOT NULL                            -- JSON list
);
