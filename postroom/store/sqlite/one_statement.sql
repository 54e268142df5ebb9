-- What a message's acceptance and its end write, each as one statement: a view of the writing connection, with a trigger.
-- The driver gives up Python's lock at every statement, and among threads that wait for it each statement costs a change of
-- threads: five statements a message cost a fifth more processor time than one. As TEMP they cost what they did in the database.

CREATE TEMP VIEW acceptance AS
SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, '' AS mime, 0 AS checksum,
       '' AS forward_path, 0 AS envelope_checksum, 0 AS not_before, key_id, test, traceparent, '' AS kind
FROM main.message;

CREATE TEMP TRIGGER acceptance_insert INSTEAD OF INSERT ON acceptance
BEGIN
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, key_id,
                         test, traceparent)
    VALUES (NEW.request_id, NEW.account_id, NEW.reverse_path, NEW.subject, NEW.size, NEW.smtputf8, NEW.accepted_at,
            NEW.in_doubt, NEW.key_id, NEW.test, NEW.traceparent);
    INSERT INTO content (message_id, mime, checksum) VALUES ((SELECT max(id) FROM message), NEW.mime, NEW.checksum);
    INSERT INTO delivery (message_id, forward_path, checksum)
    VALUES ((SELECT max(id) FROM message), NEW.forward_path, NEW.envelope_checksum);
    INSERT INTO job (kind, lane, message_id, due_at, not_before)
    VALUES (NEW.kind, NEW.account_id, (SELECT max(id) FROM message),
            CASE WHEN NEW.not_before > NEW.accepted_at THEN NEW.not_before ELSE NEW.accepted_at END, NEW.not_before);
    INSERT INTO event (message_id, at, kind) VALUES ((SELECT max(id) FROM message), NEW.accepted_at, 'accepted');
END;

-- The end of a job whose only recipient was sent to: most messages end this way.
CREATE TEMP VIEW conclusion AS
SELECT 0 AS message_id, 0 AS delivery_id, 0 AS job_id, 0 AS number, 0 AS worker_id, 0 AS started_at, 0 AS finished_at,
       0 AS reply_code, '' AS reply_enhanced, '' AS reply_text, '' AS detail, '' AS phase, '' AS dialogue;

CREATE TEMP TRIGGER conclusion_insert INSTEAD OF INSERT ON conclusion
BEGIN
    UPDATE job SET state = 'done', finished_at = NEW.finished_at,
                   claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
    WHERE id = NEW.job_id;
    INSERT INTO log_line (message_id) VALUES (NEW.message_id);
    UPDATE delivery SET state = 'sent', reason = NULL, reply_code = NEW.reply_code, reply_enhanced = NEW.reply_enhanced,
                        reply_text = NEW.reply_text, finished_at = NEW.finished_at
    WHERE id = NEW.delivery_id AND state = 'pending';
    INSERT INTO event (message_id, delivery_id, at, kind, detail)
    VALUES (NEW.message_id, NEW.delivery_id, NEW.finished_at, 'sent', NEW.detail);
    INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text,
                         phase, dialogue)
    VALUES (NEW.job_id, NEW.number, NEW.worker_id, NEW.started_at, NEW.finished_at, 'sent', NEW.reply_code,
            NEW.reply_enhanced, NEW.reply_text, NEW.phase, NEW.dialogue);
END;
