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
WHERE (digest = :digest OR own_digest = :digest) AND account_id = :account_id AND revoked_at IS NULL FOR SHARE;
