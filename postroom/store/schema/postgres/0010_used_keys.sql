-- When a key was first used with success: from then on it is not refused for what others do from its address.
ALTER TABLE api_key ADD COLUMN used_at BIGINT;
UPDATE api_key SET used_at = created_at
WHERE account_id IN (SELECT account_id FROM message UNION SELECT id FROM account WHERE worked_at IS NOT NULL);
