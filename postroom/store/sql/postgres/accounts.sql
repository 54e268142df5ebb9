-- Accounts: identity, credentials, state. As PostgreSQL writes it.

-- name: lock_account$
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE;

-- name: try_lock_account$
-- None: another worker has it just now.
SELECT id FROM account WHERE id = :account_id FOR NO KEY UPDATE SKIP LOCKED;
