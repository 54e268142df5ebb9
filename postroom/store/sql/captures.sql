-- Messages of test keys, which end in the inbox of the database.

-- name: capture_is_due$
-- One that was told no time is due at once, whatever a clock says.
SELECT EXISTS (SELECT 1 FROM job
               WHERE kind = 'capture' AND kind <> 'delivery' AND state = 'queued' AND held = 0 AND coalesce(not_before, 0) <= :now);

-- name: end_capture!
UPDATE job SET state = 'done', attempt = attempt + 1, finished_at = :now
WHERE id = :job_id AND kind = 'capture' AND state = 'queued' AND held = 0;

-- name: add_capture_events!
INSERT INTO event (message_id, delivery_id, at, kind, detail)
SELECT message_id, id, :now, 'sent', :detail FROM delivery WHERE message_id = :message_id AND state = 'pending';

-- name: end_capture_deliveries!
UPDATE delivery SET state = 'sent', reason = NULL, finished_at = :now WHERE message_id = :message_id AND state = 'pending';

-- name: newest_captures
-- Those whose content is kept.
SELECT message.id AS message_id, message.request_id, message.reverse_path, message.subject, message.size, job.finished_at
FROM message JOIN job ON job.message_id = message.id
WHERE message.test = 1 AND job.state = 'done'
  AND (EXISTS (SELECT 1 FROM content WHERE content.message_id = message.id)
       OR EXISTS (SELECT 1 FROM pieced_content WHERE pieced_content.message_id = message.id))
ORDER BY message.id DESC LIMIT :most;

-- name: captures_between
SELECT message.id AS message_id, message.request_id, message.reverse_path, message.subject, message.size, job.finished_at
FROM message JOIN job ON job.message_id = message.id
WHERE message.request_id >= :first AND message.request_id <= :last AND message.test = 1 AND job.state = 'done'
  AND (EXISTS (SELECT 1 FROM content WHERE content.message_id = message.id)
       OR EXISTS (SELECT 1 FROM pieced_content WHERE pieced_content.message_id = message.id))
ORDER BY message.request_id LIMIT :most;

-- name: forward_paths_of
SELECT forward_path FROM delivery WHERE message_id = :message_id ORDER BY id;
