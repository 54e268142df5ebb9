-- Jobs without a message, one of each kind for the installation.

-- name: add_chore!
INSERT INTO job (kind, lane, due_at) VALUES (:kind, :lane, :now) ON CONFLICT DO NOTHING;

-- name: call_chore!
UPDATE job SET due_at = :now
WHERE kind = :kind AND kind <> 'delivery' AND lane = :lane AND state = 'queued' AND held = 0 AND crashes = 0 AND due_at > :now;

-- name: chore_due
-- Or one that waits for a time that only a clock that was ahead can have set.
SELECT id AS job_id, attempt FROM job
WHERE kind = :kind AND kind <> 'delivery' AND lane = :lane AND state = 'queued' AND held = 0
  AND (due_at <= :now OR due_at > :latest)
ORDER BY due_at LIMIT 1;

-- name: forget_crashes!
UPDATE job SET crashes = 0 WHERE id = :job_id AND crashes > 0;

-- name: release_chores!
UPDATE job SET held = 0, crashes = 0, due_at = :now
WHERE held = 1 AND message_id IS NULL AND state = 'queued';
