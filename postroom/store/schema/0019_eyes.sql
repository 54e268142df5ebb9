-- What an operator sees: counters, the dialogue of each attempt, lists, notices; and what is kept of a person.
-- A process of the version before goes on beside it: all columns may be empty, and what it writes counts as before.

-- == attempts: what `postroom status` and the API show of each

ALTER TABLE attempt ADD COLUMN blame TEXT;              -- recipient, message, connection, account; NULL: sent, or an earlier version
ALTER TABLE attempt ADD COLUMN phase TEXT;              -- the verb of the step at which it ended: CONNECT, EHLO, AUTH, RCPT, ...
ALTER TABLE attempt ADD COLUMN dialogue TEXT;           -- commands and replies, secrets struck; NULL: none, or its time of keeping is over

-- == counters: totals of the installation, raised by the transaction that causes them

CREATE TABLE counter (
    name  TEXT NOT NULL,                                -- of the metric, without its prefix and unit
    label TEXT NOT NULL DEFAULT '',                     -- values of its labels, in their order, one space between them
    value BIGINT NOT NULL
    -- only sqlite
    , PRIMARY KEY (name, label)
    -- end
);                                                      -- on PostgreSQL rows are added, and folded each minute

-- only postgres
CREATE INDEX counter_name ON counter (name, label);
-- end

-- == lists: what a worker notes of each message after its commit, so that lists and statistics are found quickly

CREATE TABLE listed (
    kind       SMALLINT NOT NULL,                       -- core/listing.py names them
    value      BIGINT NOT NULL,                         -- a hash, a number of a row, or a status
    message_id BIGINT NOT NULL,
    PRIMARY KEY (kind, value, message_id)
)
-- only sqlite
WITHOUT ROWID
-- end
;

CREATE TABLE listed_block (
    block    {key},                                     -- 1,024 messages by their ids
    first_at BIGINT NOT NULL,                           -- when the first of them was accepted, by the clock
    last_at  BIGINT NOT NULL
);

CREATE TABLE daily_count (
    day        INTEGER NOT NULL,                        -- since the epoch, in UTC
    account_id BIGINT NOT NULL,
    measure    TEXT NOT NULL,                           -- accepted, sent, deferred, failed, cancelled; `after`: by time to sent
    step       INTEGER NOT NULL,                        -- of `after`: the time, on a scale of logarithms; 0 otherwise
    messages   BIGINT NOT NULL,
    PRIMARY KEY (day, account_id, measure, step)
);

-- == notices: what the admins were told

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

CREATE TABLE notice_to_send (                           -- decided, and not yet taken by each way
    notice_id   TEXT PRIMARY KEY,
    notice      TEXT NOT NULL,                          -- JSON
    ways        TEXT NOT NULL                           -- JSON list: the ways that have not taken it
);

CREATE TABLE notice_message (                           -- notices that are messages, until these have ended
    request_id  TEXT PRIMARY KEY
);

CREATE TABLE notice_memory (                            -- one row: who sends, and what was looked at last
    one         SMALLINT PRIMARY KEY CHECK (one = 1),
    holder      TEXT NOT NULL,                          -- the process that sends
    beat        BIGINT NOT NULL,                        -- raised by it again and again, as long as it lives
    memory      TEXT NOT NULL                           -- JSON: when each kind was told, how many messages had failed
);

CREATE INDEX job_failed_at ON job (finished_at) WHERE state = 'failed';

ALTER TABLE worker ADD COLUMN crashed SMALLINT;         -- 1: it did not sign off

-- == traces

ALTER TABLE message ADD COLUMN traceparent TEXT;        -- W3C Trace Context, of the request that it was accepted with

-- == grants

ALTER TABLE oauth_grant ADD COLUMN granted_at BIGINT;   -- when a person or an administrator gave it; NULL: by an earlier version

-- == private networks

ALTER TABLE account ADD COLUMN confined SMALLINT;       -- 1: a key without the scope admin has named its host

-- == personal data

ALTER TABLE account ADD COLUMN hold SMALLINT;           -- 1: retention deletes nothing of its messages
