-- The end of an account.

-- name: unfinished_jobs^
SELECT count(*) - count(CASE WHEN not_before > :now THEN 1 END) AS queued,
       count(CASE WHEN not_before > :now THEN 1 END) AS scheduled
FROM job WHERE lane = :account_id AND kind IN ('delivery', 'capture') AND state IN ('queued', 'claimed');

-- name: close_account!
UPDATE account SET closing_at = coalesce(closing_at, :now), updated_at = :now WHERE id = :account_id;

-- name: waiting_jobs
-- Those in the hands of no worker; with `due_by`, those that could have gone out by then.
SELECT id AS job_id, message_id FROM job
WHERE lane = :account_id AND kind IN ('delivery', 'capture') AND state = 'queued'
  AND (CAST(:due_by AS BIGINT) IS NULL
       OR coalesce(not_before, (SELECT accepted_at FROM message WHERE message.id = job.message_id)) <= :due_by);

-- name: fail_waiting_job!
UPDATE job SET state = 'failed', held = 0, finished_at = :now WHERE id = :job_id AND state = 'queued';

-- name: fail_deliveries!
UPDATE delivery SET state = 'failed', reason = :reason, finished_at = :now WHERE message_id = :message_id AND state = 'pending';

-- name: closing_accounts
SELECT id, email, closing_at FROM account WHERE closing_at IS NOT NULL AND deleted_at IS NULL;

-- name: forget_oauth_grant!
DELETE FROM oauth_grant WHERE account_id = :account_id;

-- name: forget_aliases!
DELETE FROM account_alias WHERE account_id = :account_id;

-- name: forget_pool_member!
DELETE FROM pool_member WHERE account_id = :account_id;

-- name: forget_finding!
DELETE FROM finding WHERE account_id = :account_id;

-- name: end_account!
UPDATE account SET credential = NULL, deleted_at = :now, updated_at = :now WHERE id = :account_id;
