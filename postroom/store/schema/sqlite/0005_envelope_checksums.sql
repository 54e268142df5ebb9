-- CRC-32 of reverse-path and forward-path as they were accepted, with their content's: an envelope that the disk has altered
-- goes to nobody. NULL: accepted before there was one.
ALTER TABLE delivery ADD COLUMN checksum INTEGER;

DROP VIEW acceptance;  -- its trigger goes with it

CREATE VIEW acceptance AS
SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, '' AS mime, 0 AS checksum,
       '' AS forward_path, 0 AS envelope_checksum
FROM message;

CREATE TRIGGER acceptance_insert INSTEAD OF INSERT ON acceptance
BEGIN
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt)
    VALUES (NEW.request_id, NEW.account_id, NEW.reverse_path, NEW.subject, NEW.size, NEW.smtputf8, NEW.accepted_at,
            NEW.in_doubt);
    INSERT INTO content (message_id, mime, checksum) VALUES ((SELECT max(id) FROM message), NEW.mime, NEW.checksum);
    INSERT INTO delivery (message_id, forward_path, checksum)
    VALUES ((SELECT max(id) FROM message), NEW.forward_path, NEW.envelope_checksum);
    INSERT INTO job (kind, account_id, message_id, due_at)
    VALUES ('delivery', NEW.account_id, (SELECT max(id) FROM message), NEW.accepted_at);
    INSERT INTO event (message_id, at, kind) VALUES ((SELECT max(id) FROM message), NEW.accepted_at, 'accepted');
END;
