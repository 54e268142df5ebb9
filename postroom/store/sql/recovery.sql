-- Jobs of dead workers.

-- name: count_crash!
UPDATE job SET crashes = crashes + 1 WHERE id = :job_id AND state = 'queued';

-- name: gone_with_hands_full
-- Workers that were declared gone and still own something.
SELECT id FROM worker
WHERE gone_at IS NOT NULL AND (EXISTS (SELECT 1 FROM job WHERE job.claimed_by = worker.id AND job.state = 'claimed')
                               OR EXISTS (SELECT 1 FROM connection WHERE connection.worker_id = worker.id))
ORDER BY id;

-- name: reap_worker!
UPDATE worker SET gone_at = :now, crashed = :crashed
WHERE id = :worker_id AND gone_at IS NULL AND lease_until = coalesce(:lease, lease_until);
