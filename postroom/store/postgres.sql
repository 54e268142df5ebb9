-- The statements that PostgreSQL writes in its own way.

-- name: accept_message!
-- Message, content, first delivery, job and event in one statement.
WITH message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt)
    VALUES (:request_id, :account_id, :reverse_path, :subject, :size, :smtputf8, :now, :in_doubt)
    RETURNING id, account_id, accepted_at
), content AS (
    INSERT INTO content (message_id, mime, checksum) SELECT id, :mime, :checksum FROM message
), delivery AS (
    INSERT INTO delivery (message_id, forward_path, checksum) SELECT id, :forward_path, :envelope_checksum FROM message
), job AS (
    INSERT INTO job (kind, account_id, message_id, due_at) SELECT 'delivery', account_id, id, accepted_at FROM message
)
INSERT INTO event (message_id, at, kind) SELECT id, accepted_at, 'accepted' FROM message;

-- name: jobs_due
-- What another worker is claiming just now is passed over; so are suspects, while the worker has one in hand.
SELECT job.id, job.attempt, job.message_id, message.request_id, message.reverse_path, message.size,
       message.smtputf8, message.accepted_at, CASE WHEN message.size <= :most_loaded THEN content.mime END,
       coalesce(content.checksum, pieced_content.checksum), job.crashes, message.in_doubt,
       delivery.id, delivery.forward_path, delivery.checksum,
       EXISTS (SELECT 1 FROM delivery AS other WHERE other.message_id = job.message_id AND other.id <> delivery.id),
       job.due_at, job.drawn, job.drawn_at
FROM (SELECT id, attempt, message_id, crashes, due_at, drawn, drawn_at FROM job
      WHERE account_id = :account_id AND state = 'queued' AND held = 0 AND due_at BETWEEN :due_from AND :now
        AND (crashes < :suspect OR NOT EXISTS (SELECT 1 FROM job AS in_hand
                                               WHERE in_hand.claimed_by = :worker_id AND in_hand.state = 'claimed'
                                                 AND in_hand.crashes >= :suspect))
      ORDER BY due_at, id LIMIT :count FOR UPDATE SKIP LOCKED) AS job
     JOIN message ON message.id = job.message_id
     LEFT JOIN content ON content.message_id = job.message_id
     LEFT JOIN pieced_content ON content.message_id IS NULL AND pieced_content.message_id = job.message_id
     JOIN LATERAL (SELECT id, forward_path, checksum FROM delivery AS any_pending
                   WHERE any_pending.message_id = job.message_id AND any_pending.state = 'pending'
                   ORDER BY id LIMIT 1) AS delivery ON true
ORDER BY job.due_at, job.id;

-- name: conclude_sent!
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
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text)
SELECT id, :number, :worker_id, :started_at, :now, 'sent', :reply_code, :reply_enhanced, :reply_text FROM job;

-- name: jobs_owned_by
-- Locked, so that the worker cannot finish one while it is being buried.
SELECT job.id, job.attempt, job.message_id, job.claim_token, job.claimed_at, job.dot_at, job.crashes, job.reserved_slot,
       job.reserved, message.in_doubt
FROM job JOIN message ON message.id = job.message_id
WHERE job.claimed_by = :worker_id AND job.state = 'claimed' ORDER BY job.id FOR UPDATE OF job;

-- name: add_to_log_batch!
UPDATE log_line SET batch = :batch
WHERE batch IS NULL AND message_id IN (SELECT value::bigint FROM json_array_elements_text(CAST(:messages AS json)) AS value);

-- name: listed_messages
-- Messages of a list, a row for each recipient: what `message_state` and `deliveries_of` say of one.
SELECT message.request_id, account.email, message.accepted_at, message.account_id, job.state, job.held, job.due_at,
       account.resume_at, CASE WHEN account.state = 'paused' THEN account.state_reason END,
       delivery.forward_path, delivery.state, delivery.reason, delivery.possible_duplicate
FROM json_array_elements_text(CAST(:messages AS json)) AS listed JOIN message ON message.id = CAST(listed.value AS bigint)
     JOIN account ON account.id = message.account_id
     LEFT JOIN job ON job.message_id = message.id
     JOIN delivery ON delivery.message_id = message.id
ORDER BY message.id, delivery.id;

-- name: count_accepted!
-- A row of its own, so that no commit waits for another one.
INSERT INTO job_count (account_id, state, jobs) VALUES (:account_id, 'accepted', :jobs);

-- name: hold_worker!
-- As if it changed something, since nobody waits for what it finds: whether it found the worker is a guard like any other. Until
-- the end of the transaction nobody can bury it. What is claimed next may be large, and the link to the server slow.
SELECT set_config('statement_timeout', '120s', true) FROM worker WHERE id = :worker_id AND gone_at IS NULL FOR SHARE;

-- name: lock_account$
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE;

-- name: try_lock_account$
-- None: another worker has it just now.
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE SKIP LOCKED;

-- ---------------------------------------------------------------- many at once
-- What a batch does most often, for all of it in one statement; each gives the keys of those that it changed.

-- name: accept_message_many
WITH given AS (
    SELECT * FROM unnest(
        CAST(:request_id AS text[]), CAST(:account_id AS bigint[]), CAST(:reverse_path AS text[]),
        CAST(:subject AS text[]), CAST(:size AS integer[]), CAST(:smtputf8 AS smallint[]), CAST(:now AS bigint[]),
        CAST(:in_doubt AS text[]), CAST(:mime AS bytea[]), CAST(:checksum AS bigint[]), CAST(:forward_path AS text[]),
        CAST(:envelope_checksum AS bigint[])
    ) AS given (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, mime, checksum,
                forward_path, envelope_checksum)
), message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt)
    SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt FROM given
    RETURNING id, request_id, account_id, accepted_at
), content AS (
    INSERT INTO content (message_id, mime, checksum)
    SELECT message.id, given.mime, given.checksum FROM message JOIN given USING (request_id)
), delivery AS (
    INSERT INTO delivery (message_id, forward_path, checksum)
    SELECT message.id, given.forward_path, given.envelope_checksum FROM message JOIN given USING (request_id)
), job AS (
    INSERT INTO job (kind, account_id, message_id, due_at) SELECT 'delivery', account_id, id, accepted_at FROM message
), event AS (
    INSERT INTO event (message_id, at, kind) SELECT id, accepted_at, 'accepted' FROM message
)
SELECT request_id FROM message;

-- name: add_idempotency_many
INSERT INTO idempotency (account_id, key, fingerprint, request_id, created_at)
SELECT * FROM unnest(
    CAST(:account_id AS bigint[]), CAST(:key AS text[]), CAST(:fingerprint AS bytea[]), CAST(:request_id AS text[]),
    CAST(:now AS bigint[])
)
ON CONFLICT (account_id, key) DO NOTHING
RETURNING request_id;

-- name: claim_job_many
UPDATE job SET state = 'claimed', claim_token = given.token, claimed_by = given.worker_id, claimed_at = given.claimed_at,
               attempt = attempt + 1, reserved_slot = given.reserved_slot, reserved = given.reserved
FROM unnest(
    CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:worker_id AS bigint[]), CAST(:now AS bigint[]),
    CAST(:reserved_slot AS bigint[]), CAST(:reserved AS integer[])
) AS given (job_id, token, worker_id, claimed_at, reserved_slot, reserved)
WHERE job.id = given.job_id AND job.state = 'queued'
RETURNING job.id;

-- name: mark_dot_many
UPDATE job SET dot_at = given.dot_at
FROM unnest(CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:now AS bigint[])) AS given (job_id, token, dot_at)
WHERE job.id = given.job_id AND job.state = 'claimed' AND job.claim_token = given.token
RETURNING job.id;

-- name: conclude_sent_many
WITH given AS (
    SELECT * FROM unnest(
        CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:message_id AS bigint[]),
        CAST(:delivery_id AS bigint[]), CAST(:number AS integer[]), CAST(:worker_id AS bigint[]),
        CAST(:started_at AS bigint[]), CAST(:now AS bigint[]), CAST(:reply_code AS integer[]),
        CAST(:reply_enhanced AS text[]), CAST(:reply_text AS text[]), CAST(:detail AS text[])
    ) AS given (job_id, token, message_id, delivery_id, number, worker_id, started_at, finished_at, reply_code,
                reply_enhanced, reply_text, detail)
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
    INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text)
    SELECT job_id, number, worker_id, started_at, finished_at, 'sent', reply_code, reply_enhanced, reply_text FROM done
)
SELECT job_id FROM done;
