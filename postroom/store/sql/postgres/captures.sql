-- Messages of test keys, which end in the inbox of the database. As PostgreSQL writes it.

-- name: captures_due
-- What another worker ends just now is passed over.
SELECT job.id AS job_id, job.message_id, message.request_id, message.reverse_path,
       (SELECT string_agg(forward_path, ', ') FROM delivery
        WHERE delivery.message_id = job.message_id AND delivery.state = 'pending') AS recipients
FROM job JOIN message ON message.id = job.message_id
WHERE job.kind = 'capture' AND job.kind <> 'delivery' AND job.state = 'queued' AND job.held = 0 AND coalesce(job.not_before, 0) <= :now
ORDER BY job.lane, job.due_at LIMIT :most FOR UPDATE OF job SKIP LOCKED;
