-- Workers and their leases. As PostgreSQL writes it.

-- name: hold_worker!
-- As if it changed something, since nobody waits for what it finds: whether it found the worker is a guard like any other. Until
-- the end of the transaction nobody can reap it. What is claimed next may be large, and the link to the server slow.
SELECT set_config('statement_timeout', '120s', true) FROM worker WHERE id = :worker_id AND gone_at IS NULL FOR SHARE;
