-- What shows that something is wrong: paused accounts, jobs that wait, workers that died, messages that failed.

-- name: accounts_at_fault
-- Paused by the breaker, or parked for a limit. What a person has paused is meant to be.
SELECT id, email, state, state_reason, state_since, resume_at FROM account
WHERE state <> 'active' AND coalesce(paused_by, 'breaker') <> 'person' AND deleted_at IS NULL ORDER BY id LIMIT :most;

-- name: accounts_with_old_jobs
-- Of the accounts that may send now: the oldest due job in the queue or with a worker, unless its pace keeps it; and messages
-- whose last try ended with the connection, which are due later: their server is away since the first such try, at the latest.
WITH claimed AS (SELECT lane, min(due_at) AS due_at FROM job WHERE state = 'claimed' AND kind = 'delivery' GROUP BY lane),
away AS (
    SELECT tried.lane, min(first_try.started_at) AS away_at, max(tried.tried_at) AS tried_at FROM (
        SELECT job.id, job.lane, last_try.finished_at AS tried_at
        FROM (SELECT id, lane FROM job WHERE kind = 'delivery' AND state = 'claimed'
              UNION ALL
              SELECT job.id, job.lane FROM account JOIN job ON job.lane = account.id
              WHERE account.state = 'active' AND job.kind = 'delivery' AND job.state = 'queued' AND job.held = 0
                AND job.id IN (SELECT later.id FROM job AS later
                               WHERE later.kind = 'delivery' AND later.lane = account.id AND later.state = 'queued'
                                 AND later.held = 0 AND later.due_at > :now
                                 AND (later.not_before IS NULL OR later.due_at > later.not_before)
                               ORDER BY later.due_at LIMIT 10)
        ) AS job
        JOIN attempt AS last_try ON last_try.id = (SELECT max(id) FROM attempt WHERE attempt.job_id = job.id)
        WHERE last_try.blame = 'connection'
    ) AS tried
    JOIN attempt AS first_try ON first_try.job_id = tried.id AND first_try.blame = 'connection'
    GROUP BY tried.lane
)
SELECT id, email, due_at, away_at, tried_at, ended FROM (
    SELECT account.id, account.email, away.away_at, away.tried_at,
           CASE WHEN EXISTS (SELECT 1 FROM pace WHERE pace.account_id = account.id AND pace.paid_until > :now) THEN NULL
           ELSE (SELECT min(waiting.due_at) FROM (
                SELECT min(job.due_at) AS due_at FROM job
                WHERE job.kind = 'delivery' AND job.lane = account.id AND job.state = 'queued' AND job.held = 0
                UNION ALL
                SELECT claimed.due_at FROM claimed WHERE claimed.lane = account.id
            ) AS waiting) END AS due_at,
           (SELECT CAST(coalesce(sum(jobs), 0) AS BIGINT) FROM job_count
            WHERE job_count.account_id = account.id AND job_count.state <> 'accepted') AS ended
    FROM account LEFT JOIN away ON away.lane = account.id
    WHERE account.state = 'active' AND account.deleted_at IS NULL
) AS first_of_each
WHERE due_at < :before OR away_at IS NOT NULL ORDER BY coalesce(away_at, due_at) LIMIT :most;

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
