-- What all migrations make of an empty SQLite database. Written by `python -m tools.schema`; a test compares it.

CREATE TABLE account (
    id           INTEGER PRIMARY KEY,
    email        TEXT NOT NULL,
    name         TEXT NOT NULL DEFAULT '',
    host         TEXT,
    port         INTEGER CHECK (port BETWEEN 0 AND 65535),
    security     TEXT CHECK (security IN ('starttls', 'tls', 'none')),
    username     TEXT,
    auth         TEXT NOT NULL DEFAULT 'password' CHECK (auth IN ('password', 'xoauth2')),
    credential   BLOB,                                  -- encrypted; NULL: no AUTH
    daily_limit  INTEGER CHECK (daily_limit > 0),       -- recipients in a rolling 24 h
    connections  INTEGER CHECK (connections > 0),
    source       TEXT NOT NULL,
    state        TEXT NOT NULL DEFAULT 'active',
    state_reason TEXT,
    state_since  INTEGER,
    resume_at    INTEGER,
    worked_at    INTEGER,                               -- its last accepted AUTH; NULL: never
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL, logins_per_minute INTEGER CHECK (logins_per_minute > 0), pipelining INTEGER CHECK (pipelining IN (0, 1)), chunking INTEGER CHECK (chunking IN (0, 1)), logins_until INTEGER NOT NULL DEFAULT 0, worked_with TEXT, setbacks INTEGER NOT NULL DEFAULT 0, passed_at INTEGER, server_lacks TEXT, uid TEXT, paused_by TEXT, dkim_selector TEXT, closing_at BIGINT, deleted_at BIGINT, confined SMALLINT, hold SMALLINT,
    CHECK ((state = 'active') = (state_since IS NULL)),
    CHECK (state <> 'parked' OR resume_at IS NOT NULL)
);

CREATE INDEX account_email ON account (email);

CREATE UNIQUE INDEX account_uid ON account (uid);

CREATE TABLE account_alias (
    account_id  BIGINT NOT NULL REFERENCES account (id),
    email       TEXT NOT NULL,
    verified_at BIGINT,
    verified_by TEXT CHECK ((verified_by IS NULL) = (verified_at IS NULL)),   -- message or admin
    PRIMARY KEY (account_id, email)
);

CREATE TABLE account_usage (
    account_id INTEGER NOT NULL REFERENCES account (id),
    slot       INTEGER NOT NULL,                        -- ten-minute periods since the epoch
    recipients INTEGER NOT NULL CHECK (recipients >= 0),
    PRIMARY KEY (account_id, slot)
) WITHOUT ROWID;

CREATE TABLE api_key (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    digest     BLOB NOT NULL UNIQUE,                    -- HMAC-SHA256 of the key
    source     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
, used_at INTEGER, own_digest BLOB);

CREATE INDEX api_key_own_digest ON api_key (own_digest);

CREATE TABLE attempt (
    id             INTEGER PRIMARY KEY,
    job_id         INTEGER NOT NULL REFERENCES job (id),
    number         INTEGER NOT NULL,
    worker_id      INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    finished_at    INTEGER NOT NULL,
    outcome        TEXT NOT NULL,
    reply_code     INTEGER,
    reply_enhanced TEXT,
    reply_text     TEXT
, blame TEXT, phase TEXT, dialogue TEXT);

CREATE INDEX attempt_job ON attempt (job_id);

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,                              -- `key NAME`, `admin token`, or `user NAME` of this machine
    source  TEXT NOT NULL,                              -- address of the client, or the host of a command
    action  TEXT NOT NULL,                              -- such as account.create
    target  TEXT,
    detail  TEXT,                                       -- JSON: what was changed; never a secret
    refused SMALLINT NOT NULL DEFAULT 0 CHECK (refused IN (0, 1))
);

CREATE INDEX audit_at ON audit (at);

CREATE TABLE connection (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    worker_id  INTEGER NOT NULL REFERENCES worker (id)
);

CREATE INDEX connection_account ON connection (account_id);

CREATE INDEX connection_worker ON connection (worker_id);

CREATE TABLE content (
    message_id INTEGER PRIMARY KEY REFERENCES message (id),
    mime       BLOB NOT NULL
, checksum INTEGER);

CREATE TABLE content_piece (
    upload   INTEGER NOT NULL,
    number   INTEGER NOT NULL,                          -- from 0
    octets   BLOB NOT NULL,
    UNIQUE (upload, number)
);

CREATE TABLE counter (
    name  TEXT NOT NULL,                                -- of the metric, without its prefix and unit
    label TEXT NOT NULL DEFAULT '',                     -- values of its labels, in their order, one space between them
    value BIGINT NOT NULL
    , PRIMARY KEY (name, label)
);

CREATE TABLE daily_count (
    day        INTEGER NOT NULL,                        -- since the epoch, in UTC
    account_id BIGINT NOT NULL,
    measure    TEXT NOT NULL,                           -- accepted, sent, deferred, failed, cancelled; `after`: by time to sent
    step       INTEGER NOT NULL,                        -- of `after`: the time, on a scale of logarithms; 0 otherwise
    messages   BIGINT NOT NULL,
    PRIMARY KEY (day, account_id, measure, step)
);

CREATE TABLE delivery (
    id                 INTEGER PRIMARY KEY,
    message_id         INTEGER NOT NULL REFERENCES message (id),
    forward_path       TEXT NOT NULL,
    state              TEXT NOT NULL DEFAULT 'pending',
    reason             TEXT,                            -- why it was last deferred, or failed
    reply_code         INTEGER,
    reply_enhanced     TEXT,
    reply_text         TEXT,
    possible_duplicate INTEGER NOT NULL DEFAULT 0 CHECK (possible_duplicate IN (0, 1)),
    finished_at        INTEGER, checksum INTEGER,
    CHECK ((state = 'pending') = (finished_at IS NULL)),
    CHECK (state <> 'failed' OR reason IS NOT NULL)
);

CREATE INDEX delivery_message ON delivery (message_id);

CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    message_id  INTEGER NOT NULL REFERENCES message (id),
    delivery_id INTEGER REFERENCES delivery (id),
    at          INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    detail      TEXT
);

CREATE INDEX event_message ON event (message_id);

CREATE TABLE finding (
    account_id BIGINT PRIMARY KEY REFERENCES account (id),
    at         BIGINT NOT NULL,
    findings   TEXT NOT NULL                            -- JSON list
);

CREATE TABLE idempotency (
    account_id  INTEGER NOT NULL REFERENCES account (id),
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    request_id  TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (account_id, key)
) WITHOUT ROWID;

CREATE INDEX idempotency_created ON idempotency (created_at);

CREATE TABLE issued_key (
    id                 INTEGER PRIMARY KEY,
    uid                TEXT NOT NULL UNIQUE,
    digest             BLOB NOT NULL UNIQUE,        -- HMAC-SHA256 under the installation's own random key
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

CREATE TABLE issued_key_usage (
    key_id     BIGINT NOT NULL REFERENCES issued_key (id),
    slot       BIGINT NOT NULL,                         -- ten-minute periods since the epoch
    recipients INTEGER NOT NULL CHECK (recipients >= 0),
    PRIMARY KEY (key_id, slot)
);

CREATE TABLE job (
    id          INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    lane        INTEGER NOT NULL,
    message_id  INTEGER UNIQUE REFERENCES message (id),
    state       TEXT NOT NULL DEFAULT 'queued'
                CHECK (state = 'queued' OR state = 'claimed' OR state = 'done' OR state = 'failed' OR state = 'cancelled'),
    due_at      INTEGER NOT NULL,
    attempt     INTEGER NOT NULL DEFAULT 0,
    crashes     INTEGER NOT NULL DEFAULT 0,             -- claims that ended with the death of the worker
    held        INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),   -- waits for a person
    claim_token INTEGER,
    claimed_by  INTEGER REFERENCES worker (id),
    claimed_at  INTEGER,
    dot_at      INTEGER,                                -- the final dot may have left since then
    finished_at INTEGER, reserved_slot INTEGER, reserved INTEGER CHECK ((reserved IS NULL) = (reserved_slot IS NULL)), drawn INTEGER NOT NULL DEFAULT 0, drawn_at INTEGER, not_before BIGINT CHECK (due_at >= not_before),
    CHECK (kind <> 'delivery' OR (lane IS NOT NULL AND message_id IS NOT NULL)),
    CHECK ((state = 'claimed') = (claim_token IS NOT NULL)),
    CHECK ((state = 'claimed') = (claimed_by IS NOT NULL)),
    CHECK ((state = 'claimed') = (claimed_at IS NOT NULL)),
    CHECK (dot_at IS NULL OR state = 'claimed'),
    CHECK ((state = 'done' OR state = 'failed' OR state = 'cancelled') = (finished_at IS NOT NULL)),
    CHECK (held = 0 OR state = 'queued')
);

CREATE INDEX job_due ON job (lane, due_at) WHERE state = 'queued' AND held = 0 AND kind = 'delivery';

CREATE INDEX job_due_other ON job (kind, lane, due_at) WHERE state = 'queued' AND held = 0 AND kind <> 'delivery';

CREATE INDEX job_failed ON job (lane, id) WHERE state = 'failed';

CREATE INDEX job_failed_at ON job (finished_at) WHERE state = 'failed';

CREATE INDEX job_finished ON job (finished_at, id) WHERE finished_at IS NOT NULL;

CREATE INDEX job_held ON job (message_id, lane) WHERE held = 1;

CREATE INDEX job_owner ON job (claimed_by) WHERE state = 'claimed';

CREATE UNIQUE INDEX job_retention ON job (kind) WHERE kind = 'retention';

CREATE TRIGGER job_ended AFTER UPDATE OF finished_at ON job
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.kind = 'delivery' BEGIN
    INSERT INTO job_count VALUES (NEW.lane, NEW.state, 1)
    ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TABLE job_count (
    account_id INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state = 'accepted' OR state = 'done' OR state = 'failed' OR state = 'cancelled'),
    jobs       INTEGER NOT NULL,
    PRIMARY KEY (account_id, state)
) WITHOUT ROWID;

CREATE TABLE listed (
    kind       SMALLINT NOT NULL,                       -- core/listing.py names them
    value      BIGINT NOT NULL,                         -- a hash, a number of a row, or a status
    message_id BIGINT NOT NULL,
    PRIMARY KEY (kind, value, message_id)
)
WITHOUT ROWID
;

CREATE TABLE listed_block (
    block    INTEGER PRIMARY KEY,                                     -- 1,024 messages by their ids
    first_at BIGINT NOT NULL,                           -- when the first of them was accepted, by the clock
    last_at  BIGINT NOT NULL
);

CREATE TABLE log_batch (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    start INTEGER NOT NULL                             -- offset in bytes
, writer TEXT NOT NULL DEFAULT '');

CREATE TABLE log_line (
    id         INTEGER PRIMARY KEY,
    message_id INTEGER NOT NULL UNIQUE REFERENCES message (id),
    batch      INTEGER REFERENCES log_batch (id)
);

CREATE INDEX log_line_batch ON log_line (batch) WHERE batch IS NOT NULL;

CREATE TABLE message (
    id           INTEGER PRIMARY KEY,
    request_id   TEXT NOT NULL UNIQUE,
    account_id   INTEGER NOT NULL REFERENCES account (id),
    reverse_path TEXT NOT NULL,
    subject      TEXT NOT NULL,
    size         INTEGER NOT NULL,                      -- octets of the RFC 5322 message
    smtputf8     INTEGER NOT NULL CHECK (smtputf8 IN (0, 1)),
    accepted_at  INTEGER NOT NULL
, in_doubt TEXT CHECK (in_doubt = 'retry' OR in_doubt = 'hold' OR in_doubt = 'fail'), key_id BIGINT, test SMALLINT, traceparent TEXT);

CREATE INDEX message_account ON message (account_id);

CREATE INDEX message_test ON message (id) WHERE test = 1;

CREATE TABLE notice (                                   -- what is wrong, or happened and is not told yet
    kind        TEXT NOT NULL,
    subject     TEXT NOT NULL,                          -- which of its kind: an account's id, a folder; '' where there is one
    first_at    BIGINT NOT NULL,
    noticed_at  BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    count       BIGINT NOT NULL,
    told_at     BIGINT,
    ended_at    BIGINT,                                 -- it is over, and that is not told yet
    notice_id   TEXT,                                   -- of the notice that told of it
    detail      TEXT NOT NULL,                          -- JSON: name, cause, examples
    PRIMARY KEY (kind, subject)
);

CREATE TABLE notice_memory (                            -- one row: who sends, and what was looked at last
    one         SMALLINT PRIMARY KEY CHECK (one = 1),
    holder      TEXT NOT NULL,                          -- the process that sends
    beat        BIGINT NOT NULL,                        -- raised by it again and again, as long as it lives
    memory      TEXT NOT NULL                           -- JSON: when each kind was told, how many messages had failed
);

CREATE TABLE notice_message (                           -- notices that are messages, until these have ended
    request_id  TEXT PRIMARY KEY
);

CREATE TABLE notice_to_send (                           -- decided, and not yet taken by each way
    notice_id   TEXT PRIMARY KEY,
    notice      TEXT NOT NULL,                          -- JSON
    ways        TEXT NOT NULL                           -- JSON list: the ways that have not taken it
);

CREATE TABLE oauth_grant (
    account_id     BIGINT PRIMARY KEY REFERENCES account (id),
    provider       TEXT NOT NULL,                       -- google, microsoft, or custom
    kind           TEXT NOT NULL,                       -- refresh_token, client_credentials, service_account
    token_endpoint TEXT NOT NULL,
    client_id      TEXT NOT NULL,
    client_secret  BLOB,                            -- encrypted; NULL: a public client, or the installation's
    scope          TEXT NOT NULL,
    grant_secret   BLOB,                            -- encrypted: the refresh token, or the service account's private key
    access_token   BLOB,                            -- encrypted
    expires_at     BIGINT,                              -- of the access token
    refreshing_by  BIGINT,                              -- until when one process may ask for a token, and no other does
    refused        TEXT,                                -- why the provider gives none any more
    updated_at     BIGINT NOT NULL
, granted_at BIGINT);

CREATE TABLE pace (
    account_id INTEGER PRIMARY KEY REFERENCES account (id),
    gap        INTEGER NOT NULL CHECK (gap > 0),               -- between messages
    average    INTEGER NOT NULL CHECK (average > 0),           -- gap at which the server has taken messages, rests included
    since      INTEGER NOT NULL,                               -- beginning of the present stretch
    taken      INTEGER NOT NULL,                              -- messages taken in it
    slowed_at  INTEGER NOT NULL,
    refusals   INTEGER NOT NULL,                              -- in a row
    paid_until INTEGER NOT NULL                                -- nothing is claimed before
);

CREATE TABLE pieced_content (
    message_id INTEGER PRIMARY KEY REFERENCES message (id),
    upload     INTEGER NOT NULL,
    checksum   INTEGER NOT NULL                         -- CRC-32 of what was accepted
);

CREATE TABLE pool (
    id         INTEGER PRIMARY KEY,
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

CREATE TABLE schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at BIGINT NOT NULL
);

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE stopped_key (
    key_id BIGINT PRIMARY KEY REFERENCES issued_key (id),
    at     BIGINT NOT NULL
);

CREATE TABLE upload (
    id       INTEGER PRIMARY KEY,                       -- random, chosen by the process that writes it
    began_at INTEGER NOT NULL
);

CREATE TABLE worker (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    host        TEXT NOT NULL,
    pid         INTEGER NOT NULL,
    lock_file   TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    gone_at     INTEGER
, crashed SMALLINT);
