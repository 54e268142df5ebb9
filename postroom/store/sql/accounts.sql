-- Accounts: identity, credentials, state.

-- define account_columns
id, email, name, host, port, security, username, credential, daily_limit, connections,
logins_per_minute, pipelining, chunking, state, state_reason, state_since, resume_at, worked_at,
uid, source, paused_by, dkim_selector, closing_at, created_at, worked_with, passed_at, (SELECT gap FROM pace WHERE pace.account_id = account.id) AS gap,
(SELECT paid_until FROM pace WHERE pace.account_id = account.id) AS paid_until, server_lacks,
hold, confined

-- name: all_accounts
SELECT {account_columns} FROM account WHERE deleted_at IS NULL ORDER BY id;

-- name: one_account^
SELECT {account_columns} FROM account WHERE id = :account_id;

-- name: account_by_uid^
SELECT {account_columns} FROM account WHERE uid = :uid AND deleted_at IS NULL;

-- name: accounts_page
SELECT {account_columns} FROM account WHERE id > :after AND deleted_at IS NULL ORDER BY id LIMIT :most;

-- name: last_reason$
-- Why the newest message of an account that was given up, or is deferred, was not sent. A deferred one is due later than the
-- others but those that wait for their `not_before`.
SELECT reason FROM (
    SELECT job.id, delivery.reason
    FROM (SELECT id, message_id FROM job WHERE kind = 'delivery' AND lane = :account_id AND state = 'failed'
          ORDER BY id DESC LIMIT 1) AS job
    JOIN delivery ON delivery.message_id = job.message_id
    UNION ALL
    SELECT job.id, delivery.reason
    FROM (SELECT id, message_id FROM job WHERE kind = 'delivery' AND lane = :account_id AND state = 'queued' AND held = 0
            AND (not_before IS NULL OR due_at > not_before)
          ORDER BY due_at DESC LIMIT 10) AS job
    JOIN delivery ON delivery.message_id = job.message_id
) AS newest
WHERE reason IS NOT NULL ORDER BY id DESC LIMIT 1;

-- name: find_account^
SELECT id, uid, source FROM account
WHERE deleted_at IS NULL AND email = :email AND coalesce(host, '') = coalesce(:host, '') AND coalesce(port, -1) = coalesce(:port, -1)
  AND coalesce(username, '') = coalesce(:username, '');

-- name: is_managed$
-- Whether the API has, or has had, an account of this mailbox and server.
SELECT count(*) FROM account
WHERE source = 'api' AND email = :email AND coalesce(host, '') = coalesce(:host, '') AND coalesce(port, -1) = coalesce(:port, -1)
  AND coalesce(username, '') = coalesce(:username, '');

-- name: insert_account$
INSERT INTO account (uid, email, name, host, port, security, username, credential, daily_limit, connections,
                     logins_per_minute, pipelining, chunking, source, created_at, updated_at)
VALUES (:uid, :email, :name, :host, :port, :security, :username, :credential, :daily_limit, :connections,
        :logins_per_minute, :pipelining, :chunking, :source, :now, :now)
RETURNING id;

-- name: update_account!
UPDATE account SET name = :name, security = :security, credential = :credential, daily_limit = :daily_limit,
                   connections = :connections, logins_per_minute = :logins_per_minute,
                   pipelining = :pipelining, chunking = :chunking, updated_at = :now
WHERE id = :account_id;

-- name: move_account!
-- To another server, or another log-in at it.
UPDATE account SET host = :host, port = :port, username = :username, worked_at = NULL, worked_with = NULL, server_lacks = NULL,
                   updated_at = :now
WHERE id = :account_id;

-- name: take_over_account!
UPDATE account SET source = 'api', updated_at = :now WHERE id = :account_id;

-- name: set_dkim_selector!
UPDATE account SET dkim_selector = :selector WHERE id = :account_id;

-- name: set_hold!
UPDATE account SET hold = :hold WHERE id = :account_id;

-- name: confine_account!
UPDATE account SET confined = :confined WHERE id = :account_id;

-- name: stored_credentials
SELECT credential FROM account WHERE credential IS NOT NULL;

-- name: account_worked!
UPDATE account SET worked_at = :now, worked_with = :worked_with WHERE id = :account_id;

-- name: keep_server!
UPDATE account SET worked_with = :worked_with WHERE id = :account_id;

-- name: note_server_lacks!
UPDATE account SET server_lacks = :lacks WHERE id = :account_id;

-- name: resume_account!
UPDATE account SET state = 'active', state_reason = NULL, state_since = NULL, resume_at = NULL, setbacks = 0
WHERE id = :account_id AND state <> 'active' AND coalesce(paused_by, 'breaker') <> 'person';

-- name: pause_account!
-- By a person, until a person lets it go on.
UPDATE account SET state = 'paused', state_reason = :reason, state_since = :now, resume_at = NULL, setbacks = 0, paused_by = 'person'
WHERE id = :account_id AND closing_at IS NULL;

-- name: unpause_account!
UPDATE account SET state = 'active', state_reason = NULL, state_since = NULL, resume_at = NULL, setbacks = 0, paused_by = NULL
WHERE id = :account_id AND state <> 'active';

-- name: account_passed!
UPDATE account SET passed_at = :now WHERE id = :account_id;

-- name: suspend_account!
UPDATE account SET state = :state, state_reason = :reason, state_since = :now, resume_at = :resume_at,
                   setbacks = :setbacks, paused_by = CASE WHEN :state = 'paused' THEN 'breaker' END
WHERE id = :account_id AND coalesce(paused_by, 'breaker') <> 'person';

-- name: account_state^
SELECT state, state_since, setbacks FROM account WHERE id = :account_id;

-- name: take_probe$
-- One worker tries whether an account goes on; another one not before `again`.
UPDATE account SET resume_at = :again WHERE id = :account_id AND state <> 'active' AND resume_at <= :now RETURNING id;

-- name: resume_within_limit!
-- Something that an account had reserved came back: what it was parked for is over.
UPDATE account SET state = 'active', state_reason = NULL, state_since = NULL, resume_at = NULL
WHERE id = (SELECT lane FROM job WHERE id = :job_id) AND state = 'parked' AND state_reason LIKE :reason;

-- name: call_drawn!
-- The account goes on: so does what waited for it.
UPDATE job SET due_at = CASE WHEN not_before > :now THEN not_before ELSE :now END
WHERE kind = 'delivery' AND lane = :account_id AND state = 'queued' AND held = 0 AND drawn_at IS NOT NULL
  AND due_at > :now AND due_at <= (SELECT resume_at FROM account WHERE id = :account_id);

-- name: repair_resume_times!
UPDATE account SET resume_at = :now WHERE resume_at > :latest;
