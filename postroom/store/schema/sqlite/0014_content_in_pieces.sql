-- A large content is written in pieces, each in a commit of its own, before its message is accepted: no other commit waits for
-- more than one of them. `upload` has those that are under way; what a process leaves behind when it dies is found there.
CREATE TABLE upload (
    id       INTEGER PRIMARY KEY,                       -- random, chosen by the process that writes it
    began_at INTEGER NOT NULL
);

CREATE TABLE content_piece (
    upload   INTEGER NOT NULL,
    number   INTEGER NOT NULL,                          -- from 0
    octets   BLOB NOT NULL,
    UNIQUE (upload, number)
);

-- The contents that are in pieces; the others are in `content`. A worker of an earlier version, which asks that table alone,
-- does not see the jobs of these.
CREATE TABLE pieced_content (
    message_id INTEGER PRIMARY KEY REFERENCES message (id),
    upload     INTEGER NOT NULL,
    checksum   INTEGER NOT NULL                         -- CRC-32 of what was accepted
);
