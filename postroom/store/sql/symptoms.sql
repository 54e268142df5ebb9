-- What shows that something is wrong: paused accounts, jobs that wait, workers that died, messages that failed.

-- name: accounts_at_fault
-- Paused by the breaker, or parked for a limit. What a person has paused is meant to be.
SELECT id, email, state, state_reason, state_since, resume_at FROM account
WHERE state <> 'active' AND coalesce(paused_by, 'breaker') <> 'person' AND deleted_at IS NULL ORDER BY id LIMIT :most;

-- name: accounts_with_old_jobs
-- Of the accounts that may send now, and not at a pace whose time has not come: in the queue, or with a worker.
WITH claimed AS (SELECT lane, min(due_at) AS due_at FROM job WHERE state = 'claimed' AND kind = 'delivery' GROUP BY lane)
SELECT id, email, due_at, ended FROM (
    SELECT account.id, account.email,
           (SELECT min(waiting.due_at) FROM (
                SELECT min(job.due_at) AS due_at FROM job
                WHERE job.kind = 'delivery' AND job.lane = account.id AND job.state = 'queued' AND job.held = 0
                UNION ALL
                SELECT claimed.due_at FROM claimed WHERE claimed.lane = account.id
            ) AS waiting) AS due_at,
           (SELECT CAST(coalesce(sum(jobs), 0) AS BIGINT) FROM job_count
            WHERE job_count.account_id = account.id AND job_count.state <> 'accepted') AS ended
    FROM account
    WHERE account.state = 'active' AND account.deleted_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM pace WHERE pace.account_id = account.id AND pace.paid_until > :now)
) AS first_of_each
WHERE due_at < :before ORDER BY due_at LIMIT :most;

-- name: recent_deaths
-- Of workers that began of late: one that is killed once, after a long life, is no worker that keeps dying.
SELECT host, CAST(count(*) AS BIGINT) AS deaths, min(gone_at) AS first_at FROM worker
WHERE id > (SELECT max(id) FROM worker) - :most AND crashed = 1 AND gone_at >= :since AND started_at >= :since
GROUP BY host ORDER BY host;

-- name: last_worker_gone$
SELECT max(gone_at) FROM worker;

-- name: ended_messages
SELECT state, CAST(sum(jobs) AS BIGINT) AS messages FROM job_count WHERE state <> 'accepted' GROUP BY state;

-- name: failed_lately
SELECT message.request_id, message.reverse_path AS sender, delivery.forward_path, delivery.reason,
    delivery.reply_code, delivery.reply_enhanced, delivery.reply_text, failed.finished_at
FROM (SELECT message_id, finished_at FROM job WHERE state = 'failed' AND finished_at > :since
      ORDER BY finished_at DESC LIMIT :most) AS failed
JOIN message ON message.id = failed.message_id
JOIN delivery ON delivery.message_id = failed.message_id
WHERE delivery.state = 'failed' ORDER BY failed.finished_at;

-- name: used_of_limits
SELECT account_id, CAST(sum(recipients) AS BIGINT) AS recipients FROM account_usage
WHERE slot BETWEEN :bucket AND :latest AND recipients > 0 GROUP BY account_id;
