-- Encrypted values, wherever they stand. A sealed one begins with a mark and the id of its key: nine octets.

-- define sealed_values
SELECT 'account.credential' AS place, account.id AS row_id, account.uid AS uid, account.credential AS token FROM account
UNION ALL
SELECT 'oauth_grant.client_secret', oauth_grant.account_id, account.uid, oauth_grant.client_secret
FROM oauth_grant JOIN account ON account.id = oauth_grant.account_id
UNION ALL
SELECT 'oauth_grant.grant_secret', oauth_grant.account_id, account.uid, oauth_grant.grant_secret
FROM oauth_grant JOIN account ON account.id = oauth_grant.account_id
UNION ALL
SELECT 'oauth_grant.access_token', oauth_grant.account_id, account.uid, oauth_grant.access_token
FROM oauth_grant JOIN account ON account.id = oauth_grant.account_id

-- name: stale_sealed_values
-- Those of one place that are not sealed by the key that `current` names.
SELECT row_id, uid, token FROM ({sealed_values}) AS sealed
WHERE token IS NOT NULL AND place = :place AND row_id > :after AND substr(token, 1, 9) <> :current
ORDER BY row_id LIMIT :most;

-- name: sealed_values_by_key
SELECT place, substr(token, 1, 9) AS begins, count(*) AS number FROM ({sealed_values}) AS sealed
WHERE token IS NOT NULL GROUP BY place, substr(token, 1, 9);

-- name: reseal_credential!
UPDATE account SET credential = :sealed WHERE id = :row_id AND credential = :former;

-- name: reseal_client_secret!
UPDATE oauth_grant SET client_secret = :sealed WHERE account_id = :row_id AND client_secret = :former;

-- name: reseal_grant_secret!
UPDATE oauth_grant SET grant_secret = :sealed WHERE account_id = :row_id AND grant_secret = :former;

-- name: reseal_access_token!
UPDATE oauth_grant SET access_token = :sealed WHERE account_id = :row_id AND access_token = :former;

-- name: replace_setting!
UPDATE setting SET value = :value WHERE name = :name AND value = :former;
