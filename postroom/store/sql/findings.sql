-- The doctor's findings about accounts, and what it asks the database.

-- name: keep_findings!
INSERT INTO finding (account_id, at, findings) VALUES (:account_id, :now, :findings)
ON CONFLICT (account_id) DO UPDATE SET at = excluded.at, findings = excluded.findings;

-- name: last_findings^
SELECT at, findings FROM finding WHERE account_id = :account_id;

-- name: count_oauth_grants$
SELECT count(*) FROM oauth_grant WHERE account_id = :account_id;

-- name: aliases_to_examine
SELECT email, verified_at, verified_by FROM account_alias WHERE account_id = :account_id ORDER BY email;
