-- Pools of accounts, and their members with weights.

-- name: insert_pool$
INSERT INTO pool (uid, name, created_at, updated_at) VALUES (:uid, :name, :now, :now) RETURNING id;

-- name: rename_pool!
UPDATE pool SET name = :name, updated_at = :now WHERE id = :pool_id AND deleted_at IS NULL;

-- name: touch_pool!
-- It also lets one transaction at a time change the members.
UPDATE pool SET updated_at = :now WHERE id = :pool_id AND deleted_at IS NULL;

-- name: delete_pool!
UPDATE pool SET deleted_at = :now, updated_at = :now WHERE id = :pool_id AND deleted_at IS NULL;

-- name: pool_by_uid^
SELECT id, uid, name, created_at, updated_at FROM pool WHERE uid = :uid AND deleted_at IS NULL;

-- name: pools_page
SELECT id, uid, name, created_at, updated_at FROM pool WHERE id > :after AND deleted_at IS NULL ORDER BY id LIMIT :most;

-- name: pool_members_of
SELECT pool_member.pool_id, account.id AS account_id, account.uid AS account_uid, account.email, pool_member.weight
FROM pool_member JOIN account ON account.id = pool_member.account_id
WHERE pool_member.pool_id BETWEEN :first AND :last AND account.deleted_at IS NULL ORDER BY pool_member.pool_id, account.id;

-- name: drop_pool_members!
DELETE FROM pool_member WHERE pool_id = :pool_id;

-- name: add_pool_member!
INSERT INTO pool_member (pool_id, account_id, weight) VALUES (:pool_id, :account_id, :weight);
