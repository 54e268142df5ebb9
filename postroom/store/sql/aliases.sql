-- Aliases of accounts.

-- name: aliases_of
SELECT email, verified_at, verified_by FROM account_alias WHERE account_id = :account_id ORDER BY email;

-- name: alias_owners
SELECT account_id FROM account_alias WHERE email = :email ORDER BY account_id;

-- name: add_alias!
INSERT INTO account_alias (account_id, email) VALUES (:account_id, :email);

-- name: remove_alias!
DELETE FROM account_alias WHERE account_id = :account_id AND email = :email;

-- name: verify_alias!
UPDATE account_alias SET verified_at = :now, verified_by = :verified_by WHERE account_id = :account_id AND email = :email;
