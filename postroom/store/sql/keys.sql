-- API keys, as digests.

-- name: active_keys
SELECT id, digest, own_digest, account_id, used_at FROM api_key WHERE revoked_at IS NULL;

-- name: active_keys_of_account
SELECT id, digest, own_digest, account_id, used_at FROM api_key WHERE account_id = :account_id AND revoked_at IS NULL;

-- name: file_key_works$
SELECT count(*) FROM api_key
WHERE (digest = :digest OR own_digest = :digest) AND account_id = :account_id AND revoked_at IS NULL;

-- name: key_is_used$
SELECT count(*) FROM api_key
WHERE (digest = :digest OR own_digest = :digest) AND revoked_at IS NULL AND used_at IS NOT NULL;

-- name: note_key_used!
UPDATE api_key SET used_at = :now WHERE (digest = :digest OR own_digest = :digest) AND used_at IS NULL;

-- A number as text. Its row is locked until the commit, so no two transactions raise it to the same one.
-- name: raise_revision!
INSERT INTO setting (name, value) VALUES (:name, '1')
ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(setting.value AS bigint) + 1 AS text);

-- name: grant_known_key!
-- One whose digest by the secret key may have changed with it.
UPDATE api_key SET account_id = :account_id, digest = :digest, revoked_at = NULL
WHERE own_digest = :own_digest
  AND NOT EXISTS (SELECT 1 FROM api_key AS other WHERE other.digest = :digest AND other.id <> api_key.id);

-- name: grant_key!
INSERT INTO api_key (account_id, digest, own_digest, source, created_at) VALUES (:account_id, :digest, :own_digest, :source, :now)
ON CONFLICT (digest) DO UPDATE SET account_id = excluded.account_id, own_digest = excluded.own_digest, revoked_at = NULL;

-- name: keys_of_source
SELECT digest FROM api_key WHERE source = :source AND revoked_at IS NULL;

-- name: revoke_key!
UPDATE api_key SET revoked_at = :now WHERE digest = :digest AND revoked_at IS NULL;

-- name: owner_of_file_key$
SELECT account_id FROM api_key WHERE (digest = :digest OR own_digest = :digest) AND revoked_at IS NULL;

-- name: count_keys_of_account$
SELECT count(*) FROM api_key WHERE account_id = :account_id AND revoked_at IS NULL;

-- name: revoke_keys_of_account!
UPDATE api_key SET revoked_at = :now WHERE account_id = :account_id AND revoked_at IS NULL;

-- name: forget_own_digests!
UPDATE api_key SET own_digest = NULL WHERE own_digest IS NOT NULL;

-- name: move_file_key!
-- To its digest by the installation's own key.
UPDATE api_key SET own_digest = :own_digest WHERE digest = :digest AND own_digest IS NULL;

-- name: count_unmoved_keys$
SELECT count(*) FROM api_key WHERE own_digest IS NULL AND revoked_at IS NULL;
