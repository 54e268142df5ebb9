-- The queue of jobs: due, claimed, marked before the dot, given back. As SQLite writes it.

-- name: jobs_due
-- While the worker has a suspect in hand the others are passed over.
SELECT job.id AS job_id, job.attempt, job.message_id, message.request_id, message.reverse_path, message.size,
       message.smtputf8, CASE WHEN job.not_before > message.accepted_at THEN job.not_before ELSE message.accepted_at END AS accepted_at,
       CASE WHEN message.size <= :most_loaded THEN content.mime END AS mime,
       coalesce(content.checksum, pieced_content.checksum) AS checksum, job.crashes, message.in_doubt, message.traceparent,
       delivery.id AS delivery_id, delivery.forward_path, delivery.checksum AS envelope_checksum,
       EXISTS (SELECT 1 FROM delivery AS other WHERE other.message_id = job.message_id AND other.id <> delivery.id) AS has_others,
       job.due_at, job.drawn, job.drawn_at
FROM job JOIN message ON message.id = job.message_id
         LEFT JOIN content ON content.message_id = job.message_id
         LEFT JOIN pieced_content ON content.message_id IS NULL AND pieced_content.message_id = job.message_id
         JOIN delivery ON delivery.id = (SELECT min(id) FROM delivery AS any_pending
                                         WHERE any_pending.message_id = job.message_id AND any_pending.state = 'pending')
WHERE job.kind = 'delivery' AND job.lane = :account_id AND job.state = 'queued' AND job.held = 0
  AND job.due_at BETWEEN :due_from AND :now
  AND (job.crashes < :suspect OR NOT EXISTS (SELECT 1 FROM job AS in_hand
                                             WHERE in_hand.claimed_by = :worker_id AND in_hand.state = 'claimed'
                                               AND in_hand.crashes >= :suspect))
ORDER BY job.due_at, job.id
LIMIT :count;
