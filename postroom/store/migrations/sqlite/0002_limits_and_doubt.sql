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

-- What becomes of this message when its final dot went out and no answer came; NULL: as the service has it.
ALTER TABLE message ADD COLUMN in_doubt TEXT CHECK (in_doubt IN ('retry', 'hold', 'fail'));

DROP VIEW acceptance;  -- its trigger goes with it

CREATE VIEW acceptance AS
SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, '' AS mime, '' AS forward_path
FROM message;

CREATE TRIGGER acceptance_insert INSTEAD OF INSERT ON acceptance
BEGIN
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt)
    VALUES (NEW.request_id, NEW.account_id, NEW.reverse_path, NEW.subject, NEW.size, NEW.smtputf8, NEW.accepted_at,
            NEW.in_doubt);
    INSERT INTO content (message_id, mime) VALUES ((SELECT max(id) FROM message), NEW.mime);
    INSERT INTO delivery (message_id, forward_path) VALUES ((SELECT max(id) FROM message), NEW.forward_path);
    INSERT INTO job (kind, account_id, message_id, due_at)
    VALUES ('delivery', NEW.account_id, (SELECT max(id) FROM message), NEW.accepted_at);
    INSERT INTO event (message_id, at, kind) VALUES ((SELECT max(id) FROM message), NEW.accepted_at, 'accepted');
END;
