-- Recipients that an account's claims have used, in slots of ten minutes: the rolling 24 hours of its daily limit.
CREATE TABLE account_usage (
    account_id INTEGER NOT NULL REFERENCES account (id),
    slot       INTEGER NOT NULL,                        -- ten-minute periods since the epoch
    recipients INTEGER NOT NULL CHECK (recipients >= 0),
    PRIMARY KEY (account_id, slot)
) WITHOUT ROWID;

-- The slot in which the present claim has reserved its recipients, and how many; NULL: its account has no limit.
ALTER TABLE job ADD COLUMN reserved_slot INTEGER;
ALTER TABLE job ADD COLUMN reserved INTEGER CHECK ((reserved IS NULL) = (reserved_slot IS NULL));

-- Connections that are open or being opened, of all workers: the most that an account may have holds over all of them.
CREATE TABLE connection (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    worker_id  INTEGER NOT NULL REFERENCES worker (id)
);
CREATE INDEX connection_account ON connection (account_id);
CREATE INDEX connection_worker ON connection (worker_id);

ALTER TABLE account ADD COLUMN logins_per_minute INTEGER CHECK (logins_per_minute > 0);
ALTER TABLE account ADD COLUMN pipelining INTEGER CHECK (pipelining IN (0, 1));   -- 0: never, even where it is offered
ALTER TABLE account ADD COLUMN chunking INTEGER CHECK (chunking IN (0, 1));
ALTER TABLE account ADD COLUMN logins_until INTEGER NOT NULL DEFAULT 0;           -- when its log-ins so far are paid for

-- What becomes of this message when its final dot went out and no answer came; NULL: as the service has it.
ALTER TABLE message ADD COLUMN in_doubt TEXT CHECK (in_doubt IN ('retry', 'hold', 'fail'));

-- CRC-32 of the content as it was accepted: what the disk has altered since never goes out. NULL: accepted before there was one.
ALTER TABLE content ADD COLUMN checksum INTEGER;

DROP VIEW acceptance;  -- its trigger goes with it

CREATE VIEW acceptance AS
SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, '' AS mime, 0 AS checksum,
       '' AS forward_path
FROM message;

CREATE TRIGGER acceptance_insert INSTEAD OF INSERT ON acceptance
BEGIN
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt)
    VALUES (NEW.request_id, NEW.account_id, NEW.reverse_path, NEW.subject, NEW.size, NEW.smtputf8, NEW.accepted_at,
            NEW.in_doubt);
    INSERT INTO content (message_id, mime, checksum) VALUES ((SELECT max(id) FROM message), NEW.mime, NEW.checksum);
    INSERT INTO delivery (message_id, forward_path) VALUES ((SELECT max(id) FROM message), NEW.forward_path);
    INSERT INTO job (kind, account_id, message_id, due_at)
    VALUES ('delivery', NEW.account_id, (SELECT max(id) FROM message), NEW.accepted_at);
    INSERT INTO event (message_id, at, kind) VALUES ((SELECT max(id) FROM message), NEW.accepted_at, 'accepted');
END;

-- The end of a job whose only recipient was sent to, in one statement: most mail ends this way.
CREATE VIEW conclusion AS
SELECT 0 AS message_id, 0 AS delivery_id, 0 AS job_id, 0 AS number, 0 AS worker_id, 0 AS started_at, 0 AS finished_at,
       0 AS reply_code, '' AS reply_enhanced, '' AS reply_text, '' AS detail;

CREATE TRIGGER conclusion_insert INSTEAD OF INSERT ON conclusion
BEGIN
    INSERT INTO log_line (message_id) VALUES (NEW.message_id);
    UPDATE delivery SET state = 'sent', reason = NULL, reply_code = NEW.reply_code, reply_enhanced = NEW.reply_enhanced,
                        reply_text = NEW.reply_text, finished_at = NEW.finished_at
    WHERE id = NEW.delivery_id AND state = 'pending';
    INSERT INTO event (message_id, delivery_id, at, kind, detail)
    VALUES (NEW.message_id, NEW.delivery_id, NEW.finished_at, 'sent', NEW.detail);
    INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text)
    VALUES (NEW.job_id, NEW.number, NEW.worker_id, NEW.started_at, NEW.finished_at, 'sent', NEW.reply_code,
            NEW.reply_enhanced, NEW.reply_text);
END;
