-- The history of one message, for the API and for `postroom status`.

-- name: history_of^
SELECT account.email, account.uid, account.state, account.state_reason, account.resume_at, message.subject, message.size,
       message.accepted_at, job.due_at, job.claimed_at, job.finished_at, job.id AS job_id, message.id AS message_id
FROM message JOIN account ON account.id = message.account_id LEFT JOIN job ON job.message_id = message.id
WHERE message.request_id = :request_id;

-- name: recipients_of
SELECT forward_path, state, reason, reply_code, reply_enhanced, reply_text, possible_duplicate, finished_at
FROM delivery WHERE message_id = :message_id ORDER BY id;

-- name: attempts_of
SELECT number, started_at, finished_at, outcome, phase, blame, reply_code, reply_enhanced, reply_text, dialogue
FROM attempt WHERE job_id = :job_id ORDER BY id DESC LIMIT :most;
