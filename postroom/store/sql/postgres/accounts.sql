-- Accounts: identity, credentials, state. As PostgreSQL writes it.

-- name: lock_account$
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE;

-- name: try_lock_account$
-- None: another worker has it just now.
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE SKIP LOCKED;

-- name: accounts_due
-- Each account is looked up: a walk over the lanes would pass over all claimed entries that an old snapshot keeps.
-- With those that may send soon: their jobs are due already, and must not be forgotten (store/watermarks.py).
SELECT {account_columns}
FROM account
WHERE (state = 'active' OR resume_at <= :soon)
  AND EXISTS (SELECT 1 FROM job
              WHERE job.kind = 'delivery' AND job.lane = account.id AND job.state = 'queued' AND job.held = 0
                AND job.due_at BETWEEN :due_from AND :now);
