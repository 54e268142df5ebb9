-- The statements that SQLite writes in its own way.

-- name: accept_message!
-- Message, content, first delivery, job and event, through the view's trigger.
INSERT INTO acceptance (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, mime,
                        checksum, forward_path, envelope_checksum)
VALUES (:request_id, :account_id, :reverse_path, :subject, :size, :smtputf8, :now, :in_doubt, :mime, :checksum,
        :forward_path, :envelope_checksum);

-- name: jobs_due
-- While the worker has a suspect in hand the others are passed over.
SELECT job.id, job.attempt, job.message_id, message.request_id, message.reverse_path, message.size,
       message.smtputf8, message.accepted_at, CASE WHEN message.size <= :most_loaded THEN content.mime END,
       coalesce(content.checksum, pieced_content.checksum), job.crashes, message.in_doubt,
       delivery.id, delivery.forward_path, delivery.checksum,
       EXISTS (SELECT 1 FROM delivery AS other WHERE other.message_id = job.message_id AND other.id <> delivery.id),
       job.due_at, job.drawn, job.drawn_at
FROM job JOIN message ON message.id = job.message_id
         LEFT JOIN content ON content.message_id = job.message_id
         LEFT JOIN pieced_content ON content.message_id IS NULL AND pieced_content.message_id = job.message_id
         JOIN delivery ON delivery.id = (SELECT min(id) FROM delivery AS any_pending
                                         WHERE any_pending.message_id = job.message_id AND any_pending.state = 'pending')
WHERE job.account_id = :account_id AND job.state = 'queued' AND job.held = 0 AND job.due_at BETWEEN :due_from AND :now
  AND (job.crashes < :suspect OR NOT EXISTS (SELECT 1 FROM job AS in_hand
                                             WHERE in_hand.claimed_by = :worker_id AND in_hand.state = 'claimed'
                                               AND in_hand.crashes >= :suspect))
ORDER BY job.due_at, job.id
LIMIT :count;

-- name: conclude_sent$
-- The job, if it is still ours, and with it delivery, event, attempt and log line, through the view's trigger.
INSERT INTO conclusion (message_id, delivery_id, job_id, number, worker_id, started_at, finished_at, reply_code,
                        reply_enhanced, reply_text, detail)
SELECT :message_id, :delivery_id, id, :number, :worker_id, :started_at, :now, :reply_code, :reply_enhanced,
       :reply_text, :detail
FROM job WHERE id = :job_id AND state = 'claimed' AND claim_token = :token
RETURNING job_id;

-- name: jobs_owned_by
SELECT job.id, job.attempt, job.message_id, job.claim_token, job.claimed_at, job.dot_at, job.crashes, job.reserved_slot,
       job.reserved, message.in_doubt
FROM job JOIN message ON message.id = job.message_id
WHERE job.claimed_by = :worker_id AND job.state = 'claimed' ORDER BY job.id;

-- name: add_to_log_batch!
UPDATE log_line SET batch = :batch WHERE batch IS NULL AND message_id IN (SELECT value FROM json_each(:messages));

-- name: hold_worker$
SELECT 1 FROM worker WHERE id = :worker_id AND gone_at IS NULL;

-- name: lock_account$
-- There is one writer at a time: nothing to lock.
SELECT :account_id;

-- name: try_lock_account$
SELECT :account_id;

-- name: listed_messages
-- Messages of a list, a row for each recipient: what `message_state` and `deliveries_of` say of one.
SELECT message.request_id, account.email, message.accepted_at, message.account_id, job.state, job.held, job.due_at,
       account.resume_at, CASE WHEN account.state = 'paused' THEN account.state_reason END,
       delivery.forward_path, delivery.state, delivery.reason, delivery.possible_duplicate
FROM json_each(:messages) AS listed JOIN message ON message.id = listed.value
     JOIN account ON account.id = message.account_id
     LEFT JOIN job ON job.message_id = message.id
     JOIN delivery ON delivery.message_id = message.id
ORDER BY message.id, delivery.id;

-- name: count_accepted!
INSERT INTO job_count (account_id, state, jobs) VALUES (:account_id, 'accepted', :jobs)
ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + excluded.jobs;
