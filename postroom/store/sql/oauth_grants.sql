-- OAuth2 grants of accounts. `refreshing_by` is the time until which one process may ask for a token, and names its claim.

-- define oauth_grant_columns
account_id, provider, kind, token_endpoint, client_id, scope, client_secret, grant_secret, access_token, expires_at, updated_at,
refused, CAST(coalesce(granted_at, 0) AS BIGINT) AS granted_at

-- name: read_oauth_grant^
SELECT {oauth_grant_columns} FROM oauth_grant WHERE account_id = :account_id;

-- name: write_oauth_grant!
INSERT INTO oauth_grant (account_id, provider, kind, token_endpoint, client_id, client_secret, scope, grant_secret, access_token,
                         expires_at, updated_at, granted_at)
VALUES (:account_id, :provider, :kind, :token_endpoint, :client_id, :client_secret, :scope, :grant_secret, :access_token,
        :expires_at, :now, :now)
ON CONFLICT (account_id) DO UPDATE SET provider = excluded.provider, kind = excluded.kind,
    token_endpoint = excluded.token_endpoint, client_id = excluded.client_id, client_secret = excluded.client_secret,
    scope = excluded.scope, grant_secret = excluded.grant_secret, access_token = excluded.access_token,
    expires_at = excluded.expires_at, refreshing_by = NULL, refused = NULL, updated_at = excluded.updated_at,
    granted_at = excluded.granted_at;

-- name: remove_oauth_grant!
DELETE FROM oauth_grant WHERE account_id = :account_id;

-- name: claim_oauth_refresh!
UPDATE oauth_grant SET refreshing_by = :until
WHERE account_id = :account_id AND refused IS NULL AND (refreshing_by IS NULL OR refreshing_by <= :now)
  AND (access_token IS NULL OR expires_at IS NULL OR expires_at <= :now
       OR (expires_at <= :fresh_until AND 2 * (expires_at - :now) < expires_at - updated_at));

-- name: store_oauth_token!
UPDATE oauth_grant SET access_token = :access_token, expires_at = :expires_at, refreshing_by = NULL, updated_at = :now,
    grant_secret = coalesce(:grant_secret, grant_secret)
WHERE account_id = :account_id AND refreshing_by = :claim;

-- name: refuse_oauth_grant!
UPDATE oauth_grant SET refused = :reason, access_token = NULL, expires_at = NULL, refreshing_by = NULL, updated_at = :now
WHERE account_id = :account_id AND refreshing_by = :claim;

-- name: release_oauth_refresh!
UPDATE oauth_grant SET refreshing_by = NULL WHERE account_id = :account_id AND refreshing_by = :claim;

-- name: expire_oauth_token!
UPDATE oauth_grant SET expires_at = 0, updated_at = :now WHERE account_id = :account_id AND access_token = :access_token;
