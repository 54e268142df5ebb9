-- Accounts: identity, credentials, state. As SQLite writes it.

-- name: lock_account$
-- There is one writer at a time: nothing to lock.
SELECT :account_id;

-- name: try_lock_account$
SELECT :account_id;

-- name: accounts_due
-- With those that may send soon: their jobs are due already, and must not be forgotten (store/watermarks.py).
-- It steps from lane to lane in the index of queued jobs, so that accounts without any cost nothing, however many there are.
WITH RECURSIVE waiting(lane) AS (
    SELECT min(lane) FROM job WHERE kind = 'delivery' AND state = 'queued' AND held = 0
    UNION ALL
    SELECT (SELECT min(job.lane) FROM job
            WHERE job.kind = 'delivery' AND job.state = 'queued' AND job.held = 0 AND job.lane > waiting.lane)
    FROM waiting WHERE waiting.lane IS NOT NULL
)
SELECT {account_columns}
FROM waiting CROSS JOIN account ON account.id = waiting.lane
WHERE (state = 'active' OR resume_at <= :soon)
  AND EXISTS (SELECT 1 FROM job
              WHERE job.kind = 'delivery' AND job.lane = account.id AND job.state = 'queued' AND job.held = 0
                AND job.due_at BETWEEN :due_from AND :now);
