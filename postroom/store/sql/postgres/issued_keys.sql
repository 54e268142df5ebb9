-- Keys that were issued by the API or the command line. As PostgreSQL writes it.

-- name: hold_issued_key!
-- A revocation waits for this transaction, or this one for the revocation.
SELECT id FROM issued_key
WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id)
FOR SHARE OF issued_key;

-- name: lock_issued_key!
SELECT id FROM issued_key
WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id)
FOR NO KEY UPDATE OF issued_key;

-- name: hold_file_key!
SELECT id FROM api_key
WHERE id = :file_id AND account_id = :account_id AND revoked_at IS NULL FOR SHARE;

-- name: hold_issued_key_many
SELECT issued_key.id
FROM unnest(CAST(:key_id AS bigint[]), CAST(:now AS bigint[])) AS given (key_id, now) JOIN issued_key ON issued_key.id = given.key_id
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > given.now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id)
FOR SHARE OF issued_key;

-- name: hold_file_key_many
SELECT api_key.id
FROM unnest(CAST(:file_id AS bigint[]), CAST(:account_id AS bigint[])) AS given (file_id, account_id)
     JOIN api_key ON api_key.id = given.file_id AND api_key.account_id = given.account_id
WHERE revoked_at IS NULL FOR SHARE OF api_key;
