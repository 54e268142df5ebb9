-- Accounts: identity, credentials, state. As SQLite writes it.

-- name: lock_account$
-- There is one writer at a time: nothing to lock.
SELECT :account_id;

-- name: try_lock_account$
SELECT :account_id;
