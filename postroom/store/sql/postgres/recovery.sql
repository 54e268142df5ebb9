-- Jobs of dead workers. As PostgreSQL writes it.

-- name: jobs_owned_by
-- Locked, so that the worker cannot finish one while it is being declared gone.
SELECT job.id, job.kind, job.attempt, job.message_id, job.claim_token AS token, job.claimed_at, job.dot_at, job.crashes,
       job.reserved_slot AS reserved_bucket,
       job.reserved, message.in_doubt
FROM job LEFT JOIN message ON message.id = job.message_id
WHERE job.claimed_by = :worker_id AND job.state = 'claimed' ORDER BY job.id FOR UPDATE OF job;
