-- The admin token among the issued keys.

-- name: restore_admin_token!
UPDATE issued_key SET revoked_at = NULL, expires_at = NULL WHERE digest = :digest AND source = 'admin';

-- name: forget_admin_token_stopped!
DELETE FROM stopped_key WHERE key_id IN (SELECT id FROM issued_key WHERE digest = :digest AND source = 'admin');
