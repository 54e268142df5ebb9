-- The queue of jobs: due, claimed, marked before the dot, given back. As PostgreSQL writes it.

-- name: jobs_due
-- What another worker is claiming just now is passed over; so are suspects, while the worker has one in hand.
SELECT job.id AS job_id, job.attempt, job.message_id, message.request_id, message.reverse_path, message.size,
       message.smtputf8, CASE WHEN job.not_before > message.accepted_at THEN job.not_before ELSE message.accepted_at END AS accepted_at,
       CASE WHEN message.size <= :most_loaded THEN content.mime END AS mime,
       coalesce(content.checksum, pieced_content.checksum) AS checksum, job.crashes, message.in_doubt, message.traceparent,
       delivery.id AS delivery_id, delivery.forward_path, delivery.checksum AS envelope_checksum,
       EXISTS (SELECT 1 FROM delivery AS other WHERE other.message_id = job.message_id AND other.id <> delivery.id) AS has_others,
       job.due_at, job.drawn, job.drawn_at
FROM (SELECT id, attempt, message_id, crashes, due_at, drawn, drawn_at, not_before FROM job
      WHERE kind = 'delivery' AND lane = :account_id AND state = 'queued' AND held = 0
        AND due_at BETWEEN :due_from AND :now
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

-- name: claim_job_many
UPDATE job SET state = 'claimed', claim_token = given.token, claimed_by = given.worker_id, claimed_at = given.claimed_at,
               attempt = attempt + 1, reserved_slot = given.reserved_slot, reserved = given.reserved
FROM unnest(
    CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:worker_id AS bigint[]), CAST(:now AS bigint[]),
    CAST(:reserved_bucket AS bigint[]), CAST(:reserved AS integer[])
) AS given (job_id, token, worker_id, claimed_at, reserved_slot, reserved)
WHERE job.id = given.job_id AND job.state = 'queued'
RETURNING job.id;

-- name: mark_dot_many
UPDATE job SET dot_at = given.dot_at
FROM unnest(CAST(:job_id AS bigint[]), CAST(:token AS bigint[]), CAST(:now AS bigint[])) AS given (job_id, token, dot_at)
WHERE job.id = given.job_id AND job.state = 'claimed' AND job.claim_token = given.token
RETURNING job.id;
