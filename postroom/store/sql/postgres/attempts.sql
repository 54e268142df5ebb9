-- The result of an attempt: job, delivery, attempt. As PostgreSQL writes it.

-- name: complete_sent!
-- The job, if it is still ours, and with it delivery, event, attempt and log line.
WITH job AS (
    UPDATE job SET state = 'done', finished_at = :now, claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
    WHERE id = :job_id AND state = 'claimed' AND claim_token = :token
    RETURNING id
), log_line AS (
    INSERT INTO log_line (message_id) SELECT :message_id FROM job
), delivery AS (
    UPDATE delivery SET state = 'sent', reason = NULL, reply_code = :reply_code, reply_enhanced = :reply_enhanced,
                        reply_text = :reply_text, finished_at = :now
    FROM job WHERE delivery.id = :delivery_id AND delivery.state = 'pending'
), event AS (
    INSERT INTO event (message_id, delivery_id, at, kind, detail)
    SELECT :message_id, :delivery_id, :now, 'sent', :detail FROM job
)
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text,
                     phase, dialogue)
SELECT id, :number, :worker_id, :started_at, :now, 'sent', :reply_code, :reply_enhanced, :reply_text,
       :phase, :dialogue FROM job;

-- name: complete_sent_many
WITH given AS (
    SELECT * FROM unnest(
        CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:message_id AS bigint[]),
        CAST(:delivery_id AS bigint[]), CAST(:number AS integer[]), CAST(:worker_id AS bigint[]),
        CAST(:started_at AS bigint[]), CAST(:now AS bigint[]), CAST(:reply_code AS integer[]),
        CAST(:reply_enhanced AS text[]), CAST(:reply_text AS text[]), CAST(:detail AS text[]),
        CAST(:phase AS text[]), CAST(:dialogue AS text[])
    ) AS given (job_id, token, message_id, delivery_id, number, worker_id, started_at, finished_at, reply_code,
                reply_enhanced, reply_text, detail, phase, dialogue)
), done AS (
    UPDATE job SET state = 'done', finished_at = given.finished_at,
                   claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
    FROM given WHERE job.id = given.job_id AND job.state = 'claimed' AND job.claim_token = given.token
    RETURNING given.*
), log_line AS (
    INSERT INTO log_line (message_id) SELECT message_id FROM done
), delivery AS (
    UPDATE delivery SET state = 'sent', reason = NULL, reply_code = done.reply_code, reply_enhanced = done.reply_enhanced,
                        reply_text = done.reply_text, finished_at = done.finished_at
    FROM done WHERE delivery.id = done.delivery_id AND delivery.state = 'pending'
), event AS (
    INSERT INTO event (message_id, delivery_id, at, kind, detail)
    SELECT message_id, delivery_id, finished_at, 'sent', detail FROM done
), attempt AS (
    INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text,
                         phase, dialogue)
    SELECT job_id, number, worker_id, started_at, finished_at, 'sent', reply_code, reply_enhanced, reply_text,
           phase, dialogue FROM done
)
SELECT job_id FROM done;
