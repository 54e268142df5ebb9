-- The doctor's findings about accounts, and what it asks the database.

-- name: keep_findings!
INSERT INTO finding (account_id, at, findings) VALUES (:account_id, :now, :findings)
ON CONFLICT (account_id) DO UPDATE SET at = excluded.at, findings = excluded.findings;

-- name: last_findings^
SELECT at, findings FROM finding WHERE account_id = :account_id;
