-- Workers and their leases. As SQLite writes it.

-- name: hold_worker$
SELECT 1 FROM worker WHERE id = :worker_id AND gone_at IS NULL;
