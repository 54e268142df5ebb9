-- Keys that were issued by the API or the command line. As SQLite writes it.

-- One writer at a time: what is seen to work goes on working until the commit, and nothing needs to be written.
-- name: hold_issued_key!
SELECT id FROM issued_key
WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: lock_issued_key!
SELECT id FROM issued_key
WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: hold_file_key!
SELECT id FROM api_key WHERE id = :file_id AND account_id = :account_id AND revoked_at IS NULL;
