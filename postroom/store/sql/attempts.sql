-- The result of an attempt: job, delivery, attempt.

-- name: end_job!
UPDATE job SET state = :state, finished_at = :now,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: end_delivery!
UPDATE delivery SET state = :state, reason = :reason, reply_code = :reply_code, reply_enhanced = :reply_enhanced,
                    reply_text = :reply_text, finished_at = :now
WHERE id = :delivery_id AND state = 'pending';

-- name: defer_delivery!
UPDATE delivery SET reason = :reason, reply_code = :reply_code, reply_enhanced = :reply_enhanced,
                    reply_text = :reply_text,
                    possible_duplicate = CASE WHEN :possible_duplicate = 1 THEN 1 ELSE possible_duplicate END
WHERE id = :delivery_id AND state = 'pending';

-- name: any_delivery_failed$
SELECT EXISTS (SELECT 1 FROM delivery WHERE message_id = :message_id AND state = 'failed');

-- name: insert_attempt!
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text,
                     blame, phase, dialogue)
VALUES (:job_id, :number, :worker_id, :started_at, :now, :outcome, :reply_code, :reply_enhanced, :reply_text,
        :blame, :phase, :dialogue);
