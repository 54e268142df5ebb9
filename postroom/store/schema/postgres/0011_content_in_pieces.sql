-- A large content is written in pieces, each in a commit of its own, before its message is accepted: no other commit waits for
-- more than one of them. `upload` has those that are under way; what a process leaves behind when it dies is found there.
CREATE TABLE upload (
    id       BIGINT PRIMARY KEY,                              -- random, chosen by the process that writes it
    began_at BIGINT NOT NULL
);

CREATE TABLE content_piece (
    upload   BIGINT NOT NULL,
    number   BIGINT NOT NULL,                                 -- from 0
    octets   BYTEA NOT NULL,
    PRIMARY KEY (upload, number)
);
ALTER TABLE content_piece ALTER COLUMN octets SET STORAGE EXTERNAL;   -- as in `content`

-- The contents that are in pieces; the others are in `content`. A worker of an earlier version, which asks that table alone,
-- does not see the jobs of these.
CREATE TABLE pieced_content (
    message_id BIGINT PRIMARY KEY,
    upload     BIGINT NOT NULL,
    checksum   BIGINT NOT NULL                                -- CRC-32 of what was accepted
);
