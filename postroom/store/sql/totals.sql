-- Totals of the installation, and what there is of everything now; read for `/metrics`.

-- name: totals
-- In one statement, so that both are of one moment: some totals are sums of the two.
SELECT 'jobs' AS name, state AS label, CAST(sum(jobs) AS BIGINT) AS value FROM job_count GROUP BY state
UNION ALL
SELECT name, label, CAST(sum(value) AS BIGINT) AS value FROM counter GROUP BY name, label;

-- name: account_states
SELECT state, count(*) AS accounts FROM account WHERE deleted_at IS NULL GROUP BY state;

-- name: oldest_due$
-- Of the accounts that may send now: what waits for a limit, or for a password, waits on purpose. Workers' hands count
-- too: a server that falls silent keeps there what it was being sent.
SELECT min(due_at) FROM (
    SELECT (SELECT min(job.due_at) FROM job
            WHERE job.kind = 'delivery' AND job.lane = account.id AND job.state = 'queued' AND job.held = 0) AS due_at
    FROM account WHERE account.state = 'active' AND account.deleted_at IS NULL
    UNION ALL
    SELECT job.due_at FROM job JOIN account ON account.id = job.lane
    WHERE job.state = 'claimed' AND job.kind = 'delivery' AND account.state = 'active' AND account.deleted_at IS NULL
) AS first_of_each;

-- name: held_up_to$
SELECT count(*) FROM (SELECT 1 FROM job WHERE held = 1 LIMIT :most) AS held;

-- name: claimed_jobs$
SELECT count(*) FROM job WHERE state = 'claimed';

-- name: limits_used
-- The accounts that have sent within a day, with the limit that was given for each.
SELECT account_usage.account_id, CAST(sum(account_usage.recipients) AS BIGINT) AS recipients
FROM account_usage JOIN account ON account.id = account_usage.account_id
WHERE account_usage.slot BETWEEN :bucket AND :latest AND account_usage.recipients > 0 AND account.deleted_at IS NULL
GROUP BY account_usage.account_id;
