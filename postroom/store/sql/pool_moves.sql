-- Messages of a pool's key that go over to another member before anything of them was sent.

-- define movable
NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.message_id = job.message_id
              AND (delivery.state <> 'pending' OR delivery.possible_duplicate = 1))
AND NOT EXISTS (SELECT 1 FROM event WHERE event.message_id = job.message_id AND event.kind = 'in_doubt')

-- name: stuck_members
-- Members that send nothing for a while, and have messages that wait. What a person has paused waits for the person.
SELECT id AS account_id, email, coalesce(state_reason, 'the account is being deleted') AS reason
FROM account
WHERE id IN (SELECT account_id FROM pool_member) AND deleted_at IS NULL
  AND (closing_at IS NOT NULL
       OR (state <> 'active' AND coalesce(paused_by, 'breaker') <> 'person' AND (resume_at IS NULL OR resume_at > :soon)))
  AND EXISTS (SELECT 1 FROM job WHERE kind = 'delivery' AND lane = account.id AND state = 'queued' AND held = 0);

-- name: movable_jobs
SELECT job.id AS job_id, job.message_id, message.request_id, issued_key.pool_id,
       (SELECT count(*) FROM delivery WHERE delivery.message_id = job.message_id) AS recipients,
       message.size, message.smtputf8, coalesce(content.checksum, pieced_content.checksum) AS checksum,
       CASE WHEN content.message_id IS NULL THEN 1 ELSE 0 END AS is_pieced
FROM job JOIN message ON message.id = job.message_id
         JOIN issued_key ON issued_key.id = message.key_id
         LEFT JOIN content ON content.message_id = job.message_id
         LEFT JOIN pieced_content ON pieced_content.message_id = job.message_id
WHERE job.kind = 'delivery' AND job.lane = :account_id AND job.state = 'queued' AND job.held = 0 AND issued_key.pool_id IS NOT NULL
  AND {movable}
ORDER BY job.due_at, job.id LIMIT :most;

-- name: move_job!
-- It is due at once: no claim of the other account may have gone past its time.
UPDATE job SET lane = :account_id, due_at = CASE WHEN not_before > :now THEN not_before ELSE :now END,
               drawn = 0, drawn_at = NULL, reserved_slot = NULL, reserved = NULL
WHERE id = :job_id AND kind = 'delivery' AND lane = :former AND state = 'queued' AND held = 0
  AND EXISTS (SELECT 1 FROM account WHERE account.id = :account_id AND closing_at IS NULL AND deleted_at IS NULL)
  AND {movable};

-- name: move_message!
UPDATE message SET account_id = :account_id, reverse_path = :reverse_path, size = :size, smtputf8 = :smtputf8
WHERE id = :message_id AND account_id = :former;

-- name: move_content!
UPDATE content SET mime = :mime, checksum = :checksum WHERE message_id = :message_id AND checksum = :known;

-- name: move_first_piece!
UPDATE content_piece SET octets = :octets
WHERE number = 0 AND upload = (SELECT upload FROM pieced_content WHERE message_id = :message_id);

-- name: move_pieced_content!
UPDATE pieced_content SET checksum = :checksum WHERE message_id = :message_id AND checksum = :known;

-- name: move_delivery!
UPDATE delivery SET checksum = :checksum, reason = NULL, reply_code = NULL, reply_enhanced = NULL, reply_text = NULL
WHERE id = :delivery_id AND state = 'pending';
