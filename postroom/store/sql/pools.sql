-- Pools of accounts, and their members with weights.

-- name: insert_pool$
INSERT INTO pool (uid, name, created_at, updated_at) VALUES (:uid, :name, :now, :now) RETURNING id;

-- name: rename_pool!
UPDATE pool SET name = :name, updated_at = :now WHERE id = :pool_id AND deleted_at IS NULL;

-- name: touch_pool!
-- It also lets one transaction at a time change the members.
UPDATE pool SET updated_at = :now WHERE id = :pool_id AND deleted_at IS NULL;

-- name: hold_pool!
-- Whether it is there, until the end of the transaction.
UPDATE pool SET updated_at = updated_at WHERE id = :pool_id AND deleted_at IS NULL;

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

-- name: anchor_pool!
-- The first account that a pool ever had: its row stays, so that a repeated request finds its idempotency key there.
UPDATE pool SET anchor_id = :account_id WHERE id = :pool_id AND anchor_id IS NULL;

-- name: pool_anchor$
SELECT anchor_id FROM pool WHERE id = :pool_id;

-- name: pool_loads
SELECT pool_member.account_id, pool_member.weight, account.state, account.resume_at, account.closing_at,
       (SELECT CAST(coalesce(sum(recipients), 0) AS BIGINT) FROM account_usage
        WHERE account_usage.account_id = account.id AND slot BETWEEN :bucket AND :latest) AS used,
       (SELECT min(slot) FROM account_usage
        WHERE account_usage.account_id = account.id AND slot BETWEEN :bucket AND :latest AND recipients > 0) AS oldest,
       (SELECT CAST(coalesce(sum(CASE WHEN job_count.state = 'accepted' THEN jobs ELSE -jobs END), 0) AS BIGINT) FROM job_count
        WHERE job_count.account_id = account.id) AS waiting
FROM pool_member JOIN account ON account.id = pool_member.account_id
WHERE pool_member.pool_id = :pool_id AND account.deleted_at IS NULL ORDER BY account.id;

-- name: member_that_sent$
SELECT message.account_id FROM message JOIN pool_member ON pool_member.account_id = message.account_id
WHERE pool_member.pool_id = :pool_id AND message.request_id = :request_id;
