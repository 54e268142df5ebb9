-- The admin token among the issued keys.

-- name: restore_admin_token!
UPDATE issued_key SET revoked_at = NULL, expires_at = NULL WHERE digest = :digest AND source = 'admin';
