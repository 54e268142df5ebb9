-- Deletes contents, dialogues, history and keys when their time is over; nothing of accounts on hold.

-- name: over_after
SELECT id AS job_id, message_id, finished_at, (SELECT hold FROM account WHERE account.id = job.lane) AS hold FROM job
WHERE finished_at IS NOT NULL AND (finished_at, id) > (:after, :after_id) AND finished_at <= :until
ORDER BY finished_at, id LIMIT :count;

-- name: over_and_logged
-- An account's hold keeps its messages; they are passed over once (store/retention.py).
SELECT id AS job_id, message_id, finished_at, (SELECT hold FROM account WHERE account.id = job.lane) AS hold FROM job
WHERE finished_at IS NOT NULL AND (finished_at, id) > (:after, :after_id) AND finished_at <= :until
  AND NOT EXISTS (SELECT 1 FROM log_line WHERE log_line.message_id = job.message_id)
ORDER BY finished_at, id LIMIT :count;

-- name: waits_for_log$
SELECT EXISTS (SELECT 1 FROM log_line JOIN job ON job.message_id = log_line.message_id WHERE job.finished_at <= :until);

-- name: attempts_after
SELECT attempt.id, attempt.finished_at, account.hold
FROM attempt JOIN job ON job.id = attempt.job_id JOIN account ON account.id = job.lane
WHERE attempt.id > :after ORDER BY attempt.id LIMIT :count;

-- name: drop_dialogues!
UPDATE attempt SET dialogue = NULL
WHERE id > :after AND id <= :last AND dialogue IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM job JOIN account ON account.id = job.lane WHERE job.id = attempt.job_id AND account.hold = 1
);

-- name: delete_attempts!
DELETE FROM attempt WHERE job_id = :job_id;

-- name: delete_events!
DELETE FROM event WHERE message_id = :message_id;

-- name: delete_deliveries!
DELETE FROM delivery WHERE message_id = :message_id;

-- name: delete_job!
DELETE FROM job WHERE id = :job_id;

-- name: delete_message!
DELETE FROM message WHERE id = :message_id;

-- name: old_idempotency_keys
-- A message that is still there, such as a held one, must not be accepted again.
SELECT account_id, key FROM idempotency
WHERE created_at <= :until AND NOT EXISTS (SELECT 1 FROM message WHERE message.request_id = idempotency.request_id)
ORDER BY created_at LIMIT :count;

-- name: delete_idempotency_key!
DELETE FROM idempotency WHERE account_id = :account_id AND key = :key;
