-- The audit.

-- name: append_audit!
INSERT INTO audit (at, actor, source, action, target, detail, refused)
VALUES (:now, :actor, :source, :action, :target, :detail, :refused);

-- name: refused_lately$
SELECT count(*) FROM audit WHERE at > :since AND refused = 1 AND source = :source;

-- name: audit_page
SELECT id, at, actor, source, action, target, detail, refused FROM audit WHERE id < :before ORDER BY id DESC LIMIT :most;

-- name: prune_audit!
DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < :until ORDER BY id LIMIT :most);
