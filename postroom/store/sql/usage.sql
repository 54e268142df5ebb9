-- The daily limits of accounts, in usage buckets of ten minutes.

-- name: usage_since^
-- What an account has used from a slot on, and the first slot of it that is not empty.
SELECT coalesce(sum(recipients), 0) AS recipients, min(slot) AS oldest FROM account_usage
WHERE account_id = :account_id AND slot BETWEEN :bucket AND :latest AND recipients > 0;

-- name: reserve_usage!
INSERT INTO account_usage (account_id, slot, recipients) VALUES (:account_id, :bucket, :recipients)
ON CONFLICT (account_id, slot) DO UPDATE SET recipients = account_usage.recipients + excluded.recipients;

-- name: return_usage!
UPDATE account_usage SET recipients = CASE WHEN recipients > :recipients THEN recipients - :recipients ELSE 0 END
WHERE account_id = (SELECT lane FROM job WHERE id = :job_id) AND slot = :bucket;

-- name: forget_usage!
DELETE FROM account_usage WHERE slot < :bucket;
