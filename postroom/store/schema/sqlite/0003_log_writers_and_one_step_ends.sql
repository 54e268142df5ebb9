-- Whose file a batch of log lines is on its way into; on a server's database there may be several.
ALTER TABLE log_batch ADD COLUMN writer TEXT NOT NULL DEFAULT '';

-- The end of a job whose only recipient was sent to now takes one statement: the job's own row is changed here too.
DROP VIEW conclusion;  -- its trigger goes with it

CREATE VIEW conclusion AS
SELECT 0 AS message_id, 0 AS delivery_id, 0 AS job_id, 0 AS number, 0 AS worker_id, 0 AS started_at, 0 AS finished_at,
       0 AS reply_code, '' AS reply_enhanced, '' AS reply_text, '' AS detail;

CREATE TRIGGER conclusion_insert INSTEAD OF INSERT ON conclusion
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
    INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text)
    VALUES (NEW.job_id, NEW.number, NEW.worker_id, NEW.started_at, NEW.finished_at, 'sent', NEW.reply_code,
            NEW.reply_enhanced, NEW.reply_text);
END;
