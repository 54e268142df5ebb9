-- The result of an attempt: job, delivery, attempt. As SQLite writes it.

-- name: complete_sent$
-- The job, if it is still ours, and with it delivery, event, attempt and log line, through the view's trigger.
INSERT INTO conclusion (message_id, delivery_id, job_id, number, worker_id, started_at, finished_at, reply_code,
                        reply_enhanced, reply_text, detail, phase, dialogue)
SELECT :message_id, :delivery_id, id, :number, :worker_id, :started_at, :now, :reply_code, :reply_enhanced,
       :reply_text, :detail, :phase, :dialogue
FROM job WHERE id = :job_id AND state = 'claimed' AND claim_token = :token
RETURNING job_id;
