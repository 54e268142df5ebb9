-- The queue of jobs: due, claimed, marked before the dot, given back.

-- name: claim_job!
UPDATE job SET state = 'claimed', claim_token = :token, claimed_by = :worker_id, claimed_at = :now,
               attempt = attempt + 1, reserved_slot = :reserved_bucket, reserved = :reserved
WHERE id = :job_id AND state = 'queued';

-- name: pending_deliveries
SELECT id, forward_path, checksum FROM delivery WHERE message_id = :message_id AND state = 'pending' ORDER BY id;

-- name: mark_dot!
UPDATE job SET dot_at = :now WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: unmark_dot!
UPDATE job SET dot_at = NULL WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: requeue_job!
UPDATE job SET state = 'queued', due_at = CASE WHEN not_before > :due_at THEN not_before ELSE :due_at END,
               held = :held, attempt = attempt - :refund,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: note_draw!
-- The message that drew a refusal of its account goes after all others that wait, and is due when the account goes on.
-- It counts the refusals between which others have passed.
UPDATE job SET drawn = CASE WHEN drawn = 0 OR drawn_at < (SELECT passed_at FROM account WHERE id = job.lane)
                            THEN drawn + 1 ELSE drawn END,
               drawn_at = :now,
               due_at = (SELECT CASE WHEN resume_at IS NULL THEN due_at WHEN not_before > resume_at THEN not_before
                                     ELSE resume_at END FROM account WHERE id = job.lane)
WHERE id = :job_id AND state = 'queued';

-- name: waits_too_long$
SELECT EXISTS (SELECT 1 FROM account WHERE resume_at > :latest_resume)
    OR EXISTS (SELECT 1 FROM job
               WHERE kind = 'delivery' AND lane IN (SELECT id FROM account) AND state = 'queued' AND held = 0
                 AND due_at > :soon AND (not_before IS NULL OR due_at > not_before)
                 AND (attempt = 0 AND drawn_at IS NULL
                      OR due_at > CASE WHEN drawn_at IS NULL THEN :latest ELSE :latest_resume END));

-- name: repair_due_times!
-- What a clock that was ahead has left: a message that was never tried is due soon, or at its `not_before`, and nothing waits
-- longer than it ever should.
UPDATE job SET due_at = CASE WHEN not_before > :now THEN not_before ELSE :now END
WHERE id IN (SELECT id FROM job
             WHERE kind = 'delivery' AND lane IN (SELECT id FROM account) AND state = 'queued' AND held = 0
               AND due_at > :soon AND (not_before IS NULL OR due_at > not_before)
               AND (attempt = 0 AND drawn_at IS NULL
                    OR due_at > CASE WHEN drawn_at IS NULL THEN :latest ELSE :latest_resume END)
             LIMIT :count);

-- name: tokens_of
SELECT claim_token FROM job WHERE claimed_by = :worker_id AND state = 'claimed';

-- name: suspect_in_hand$
SELECT EXISTS (SELECT 1 FROM job WHERE claimed_by = :worker_id AND state = 'claimed' AND crashes >= :crashes);
