-- Workers and their leases.

-- name: insert_worker$
INSERT INTO worker (host, pid, lock_file, started_at, lease_until)
VALUES (:host, :pid, :lock_file, :now, :lease_until)
RETURNING id;

-- name: renew_lease!
UPDATE worker SET lease_until = :lease_until WHERE id = :worker_id AND gone_at IS NULL;

-- name: living_workers
SELECT id, host, pid, lock_file, lease_until FROM worker WHERE gone_at IS NULL ORDER BY id;
