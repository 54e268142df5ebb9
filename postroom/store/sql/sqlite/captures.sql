-- Messages of test keys, which end in the inbox of the database. As SQLite writes it.

-- name: captures_due
SELECT job.id AS job_id, job.message_id, message.request_id, message.reverse_path,
       (SELECT group_concat(forward_path, ', ') FROM delivery
        WHERE delivery.message_id = job.message_id AND delivery.state = 'pending') AS recipients
FROM job JOIN message ON message.id = job.message_id
WHERE job.kind = 'capture' AND job.kind <> 'delivery' AND job.state = 'queued' AND job.held = 0 AND coalesce(job.not_before, 0) <= :now
ORDER BY job.lane, job.due_at LIMIT :most;
