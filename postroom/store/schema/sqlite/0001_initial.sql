-- The whole way of a message (docs/design.md §5). Times are microseconds since the epoch.
-- CHECK constraints tie a state to the columns that it needs, so that no code can leave half a move behind.

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

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
    source       TEXT NOT NULL CHECK (source IN ('csv', 'cli')),
    state        TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'parked', 'paused')),
    state_reason TEXT,
    state_since  INTEGER,
    resume_at    INTEGER,
    worked_at    INTEGER,                               -- its last accepted AUTH; NULL: never
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    CHECK ((state = 'active') = (state_since IS NULL)),
    CHECK (state <> 'parked' OR resume_at IS NOT NULL)
);
CREATE INDEX account_email ON account (email);

CREATE TABLE api_key (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    digest     BLOB NOT NULL UNIQUE,                    -- HMAC-SHA256 of the key
    source     TEXT NOT NULL CHECK (source IN ('csv', 'cli')),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
);

CREATE TABLE message (
    id           INTEGER PRIMARY KEY,
    request_id   TEXT NOT NULL UNIQUE,
    account_id   INTEGER NOT NULL REFERENCES account (id),
    reverse_path TEXT NOT NULL,
    subject      TEXT NOT NULL,
    size         INTEGER NOT NULL,                      -- octets of the RFC 5322 message
    smtputf8     INTEGER NOT NULL CHECK (smtputf8 IN (0, 1)),
    accepted_at  INTEGER NOT NULL
);

-- Apart from `message`, so that listing and claiming never page through bodies, and pruning is one DELETE.
CREATE TABLE content (
    message_id INTEGER PRIMARY KEY REFERENCES message (id),
    mime       BLOB NOT NULL
);

CREATE TABLE delivery (
    id                 INTEGER PRIMARY KEY,
    message_id         INTEGER NOT NULL REFERENCES message (id),
    forward_path       TEXT NOT NULL,
    state              TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed', 'cancelled')),
    reason             TEXT,                            -- why it was last deferred, or failed
    reply_code         INTEGER,
    reply_enhanced     TEXT,
    reply_text         TEXT,
    possible_duplicate INTEGER NOT NULL DEFAULT 0 CHECK (possible_duplicate IN (0, 1)),
    finished_at        INTEGER,
    CHECK ((state = 'pending') = (finished_at IS NULL)),
    CHECK (state <> 'failed' OR reason IS NOT NULL)
);
CREATE INDEX delivery_message ON delivery (message_id);

CREATE TABLE job (
    id          INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    account_id  INTEGER REFERENCES account (id),
    message_id  INTEGER UNIQUE REFERENCES message (id),
    state       TEXT NOT NULL DEFAULT 'queued'
                CHECK (state IN ('queued', 'claimed', 'done', 'failed', 'cancelled')),
    due_at      INTEGER NOT NULL,
    attempt     INTEGER NOT NULL DEFAULT 0,
    crashes     INTEGER NOT NULL DEFAULT 0,             -- claims that ended with the death of the worker
    held        INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),   -- waits for a person
    claim_token INTEGER,
    claimed_by  INTEGER REFERENCES worker (id),
    claimed_at  INTEGER,
    dot_at      INTEGER,                                -- the final dot may have left since then
    finished_at INTEGER,
    CHECK (kind <> 'delivery' OR (account_id IS NOT NULL AND message_id IS NOT NULL)),
    CHECK ((state = 'claimed') = (claim_token IS NOT NULL)),
    CHECK ((state = 'claimed') = (claimed_by IS NOT NULL)),
    CHECK ((state = 'claimed') = (claimed_at IS NOT NULL)),
    CHECK (dot_at IS NULL OR state = 'claimed'),
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (held = 0 OR state = 'queued')
);
CREATE INDEX job_due ON job (account_id, due_at) WHERE state = 'queued' AND held = 0;
CREATE INDEX job_owner ON job (claimed_by) WHERE state = 'claimed';

CREATE TABLE attempt (
    id             INTEGER PRIMARY KEY,
    job_id         INTEGER NOT NULL REFERENCES job (id),
    number         INTEGER NOT NULL,
    worker_id      INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    finished_at    INTEGER NOT NULL,
    outcome        TEXT NOT NULL CHECK (outcome IN ('sent', 'deferred', 'failed', 'in_doubt', 'crashed')),
    reply_code     INTEGER,
    reply_enhanced TEXT,
    reply_text     TEXT
);
CREATE INDEX attempt_job ON attempt (job_id);

CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    message_id  INTEGER NOT NULL REFERENCES message (id),
    delivery_id INTEGER REFERENCES delivery (id),
    at          INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    detail      TEXT
);
CREATE INDEX event_message ON event (message_id);

CREATE TABLE idempotency (
    account_id  INTEGER NOT NULL REFERENCES account (id),
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    request_id  TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (account_id, key)
) WITHOUT ROWID;

-- A worker process. Its lock file tells its neighbours on the same host when it is dead; its lease tells everybody else.
CREATE TABLE worker (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    host        TEXT NOT NULL,
    pid         INTEGER NOT NULL,
    lock_file   TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    gone_at     INTEGER
);

-- Finished messages that email_log.txt still lacks: an outbox, filled in the transaction that finishes the message.
CREATE TABLE log_line (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id INTEGER NOT NULL UNIQUE REFERENCES message (id),
    batch      INTEGER REFERENCES log_batch (id)
);
CREATE INDEX log_line_batch ON log_line (batch);

-- A batch of lines on its way into the file: where it starts, so that a crash while writing can be settled.
CREATE TABLE log_batch (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    start INTEGER NOT NULL                             -- offset in bytes
);

-- Acceptance in one statement. The driver gives up Python's lock at every statement, and among threads that wait for it each
-- statement costs a change of threads: five statements a message cost a fifth more processor time than one.
CREATE VIEW acceptance AS
SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, '' AS mime, '' AS forward_path
FROM message;

CREATE TRIGGER acceptance_insert INSTEAD OF INSERT ON acceptance
BEGIN
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at)
    VALUES (NEW.request_id, NEW.account_id, NEW.reverse_path, NEW.subject, NEW.size, NEW.smtputf8, NEW.accepted_at);
    INSERT INTO content (message_id, mime) VALUES ((SELECT max(id) FROM message), NEW.mime);
    INSERT INTO delivery (message_id, forward_path) VALUES ((SELECT max(id) FROM message), NEW.forward_path);
    INSERT INTO job (kind, account_id, message_id, due_at)
    VALUES ('delivery', NEW.account_id, (SELECT max(id) FROM message), NEW.accepted_at);
    INSERT INTO event (message_id, at, kind) VALUES ((SELECT max(id) FROM message), NEW.accepted_at, 'accepted');
END;
