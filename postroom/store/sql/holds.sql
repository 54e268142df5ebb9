-- A person's decisions about messages: held, released, cancelled.

-- name: message_id$
SELECT id FROM message WHERE request_id = :request_id;

-- name: doubt_deliveries!
UPDATE delivery SET possible_duplicate = 1, reason = :reason
WHERE state = 'pending' AND message_id IN (
    SELECT job.message_id FROM job JOIN message ON message.id = job.message_id
    WHERE (job.state = 'queued' OR (job.state = 'claimed' AND :claimed = 1)) AND job.held = 0 AND message.accepted_at <= :until);

-- name: add_held_events!
INSERT INTO event (message_id, at, kind, detail)
SELECT job.message_id, :now, 'held', :reason FROM job JOIN message ON message.id = job.message_id
WHERE (job.state = 'queued' OR (job.state = 'claimed' AND :claimed = 1)) AND job.held = 0 AND message.accepted_at <= :until;

-- name: hold_jobs!
UPDATE job SET state = 'queued', held = 1, claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE (state = 'queued' OR (state = 'claimed' AND :claimed = 1)) AND held = 0
  AND message_id IN (SELECT id FROM message WHERE accepted_at <= :until);

-- name: held_messages
SELECT message.request_id FROM job JOIN message ON message.id = job.message_id
WHERE job.held = 1 ORDER BY job.message_id;

-- name: release_held!
UPDATE job SET held = 0, crashes = 0, due_at = CASE WHEN not_before > :now THEN not_before ELSE :now END
WHERE message_id = :message_id AND state = 'queued' AND held = 1;

-- name: cancel_job!
UPDATE job SET state = 'cancelled', held = 0, finished_at = :now WHERE message_id = :message_id AND state = 'queued';

-- name: cancel_deliveries!
UPDATE delivery SET state = 'cancelled', finished_at = :now WHERE message_id = :message_id AND state = 'pending';

-- name: doubtful_deliveries
SELECT id FROM delivery WHERE message_id = :message_id AND state = 'pending' AND possible_duplicate = 1 ORDER BY id;
