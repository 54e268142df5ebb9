-- The servers that accounts name.

-- name: hosts_of_accounts
SELECT DISTINCT lower(coalesce(host, '')) AS host FROM account WHERE deleted_at IS NULL;

-- name: accounts_of_unknown_server
SELECT id FROM account WHERE worked_with = '' AND deleted_at IS NULL ORDER BY id;
