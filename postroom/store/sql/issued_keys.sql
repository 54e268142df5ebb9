-- Keys that were issued by the API or the command line.

-- define issued_key_columns
issued_key.id, issued_key.uid, digest, issued_key.name, issued_key.account_id, issued_key.pool_id, scopes, test, allowed_recipients,
networks, issued_key.daily_limit, hint, issued_key.source, issued_key.created_at, expires_at, coalesce(revoked_at, (SELECT at FROM stopped_key WHERE stopped_key.key_id = issued_key.id)) AS revoked_at, last_used_at

-- name: insert_issued_key$
INSERT INTO issued_key (uid, digest, name, account_id, pool_id, scopes, test, allowed_recipients, networks, daily_limit,
                        hint, source, created_at, expires_at)
VALUES (:uid, :digest, :name, :account_id, :pool_id, :scopes, :test, :allowed_recipients, :networks, :daily_limit,
        :hint, :source, :now, :expires_at)
RETURNING id;

-- name: working_issued_keys
SELECT {issued_key_columns} FROM issued_key WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: working_issued_keys_of_account
SELECT {issued_key_columns} FROM issued_key
WHERE account_id = :account_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: working_issued_key
SELECT {issued_key_columns} FROM issued_key
WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: issued_key_by_uid^
SELECT {issued_key_columns} FROM issued_key WHERE uid = :uid;

-- name: issued_key_by_digest^
SELECT {issued_key_columns} FROM issued_key WHERE digest = :digest;

-- name: issued_keys_page
-- Newest first; of one account where `account_id` is given.
SELECT {issued_key_columns} FROM issued_key
WHERE id < :before AND revoked_at IS NULL AND source <> 'admin' AND account_id = :account_id
ORDER BY id DESC LIMIT :most;

-- name: all_issued_keys_page
SELECT {issued_key_columns} FROM issued_key
WHERE id < :before AND revoked_at IS NULL AND source <> 'admin' ORDER BY id DESC LIMIT :most;

-- name: issued_keys_of_source
SELECT {issued_key_columns} FROM issued_key WHERE source = :source AND revoked_at IS NULL ORDER BY id;

-- name: stop_issued_key!
INSERT INTO stopped_key (key_id, at) VALUES (:key_id, :now) ON CONFLICT (key_id) DO NOTHING;

-- name: revoke_stopped_keys!
UPDATE issued_key SET revoked_at = (SELECT at FROM stopped_key WHERE key_id = issued_key.id)
WHERE revoked_at IS NULL AND id IN (SELECT key_id FROM stopped_key);

-- name: revoke_issued_key!
UPDATE issued_key SET revoked_at = :now WHERE id = :key_id AND revoked_at IS NULL;

-- name: revoke_issued_keys_of_account!
UPDATE issued_key SET revoked_at = :now WHERE account_id = :account_id AND revoked_at IS NULL;

-- name: revoke_issued_keys_of_pool!
UPDATE issued_key SET revoked_at = :now WHERE pool_id = :pool_id AND revoked_at IS NULL;

-- name: revoke_every_issued_key!
UPDATE issued_key SET revoked_at = :now WHERE revoked_at IS NULL;

-- name: expire_issued_key!
UPDATE issued_key SET expires_at = :at WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :at);

-- name: note_issued_key_used!
UPDATE issued_key SET last_used_at = :now WHERE id = :key_id;

-- name: issued_key_works$
SELECT count(*) FROM issued_key WHERE id = :key_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
  AND NOT EXISTS (SELECT 1 FROM stopped_key WHERE stopped_key.key_id = issued_key.id);

-- name: issued_key_is_used$
SELECT count(*) FROM issued_key WHERE digest = :digest AND revoked_at IS NULL AND last_used_at IS NOT NULL;

-- name: issued_key_used$
SELECT coalesce(sum(recipients), 0) FROM issued_key_usage WHERE key_id = :key_id AND slot >= :bucket;

-- name: oldest_issued_key_usage$
SELECT min(slot) FROM issued_key_usage WHERE key_id = :key_id AND slot >= :bucket AND recipients > 0;

-- name: use_issued_key!
INSERT INTO issued_key_usage (key_id, slot, recipients) VALUES (:key_id, :bucket, :recipients)
ON CONFLICT (key_id, slot) DO UPDATE SET recipients = issued_key_usage.recipients + excluded.recipients;

-- name: return_issued_key_usage!
-- What a message counted against its key's limit, for the recipients to whom nothing will be sent.
UPDATE issued_key_usage SET recipients = CASE WHEN recipients > :recipients THEN recipients - :recipients ELSE 0 END
WHERE key_id = (SELECT key_id FROM message WHERE id = :message_id)
  AND slot = (SELECT accepted_at FROM message WHERE id = :message_id) / 600000000;

-- name: forget_issued_key_usage!
DELETE FROM issued_key_usage WHERE slot < :bucket;
