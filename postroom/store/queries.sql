-- Every statement that both engines share, by name; sqlite.sql and postgres.sql have the others. Times are microseconds since the epoch.

-- name: read_setting$
SELECT value FROM setting WHERE name = :name;

-- name: add_setting!
INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: write_setting!
INSERT INTO setting (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: forget_setting!
DELETE FROM setting WHERE name = :name;


-- ---------------------------------------------------------------- accounts and keys

-- name: all_accounts
SELECT id, email, name, host, port, security, username, credential, daily_limit, connections,
       logins_per_minute, pipelining, chunking, state, state_reason, state_since, resume_at, worked_at,
       worked_with, passed_at, (SELECT gap FROM pace WHERE pace.account_id = account.id),
       (SELECT paid_until FROM pace WHERE pace.account_id = account.id), server_lacks
FROM account ORDER BY id;

-- name: one_account^
SELECT id, email, name, host, port, security, username, credential, daily_limit, connections,
       logins_per_minute, pipelining, chunking, state, state_reason, state_since, resume_at, worked_at,
       worked_with, passed_at, (SELECT gap FROM pace WHERE pace.account_id = account.id),
       (SELECT paid_until FROM pace WHERE pace.account_id = account.id), server_lacks
FROM account WHERE id = :account_id;

-- name: last_reason$
-- Why the newest message of an account that was given up, or is deferred, was not sent. A deferred one is due later than the others.
SELECT reason FROM (
    SELECT job.id, delivery.reason
    FROM (SELECT id, message_id FROM job WHERE account_id = :account_id AND state = 'failed'
          ORDER BY id DESC LIMIT 1) AS job
    JOIN delivery ON delivery.message_id = job.message_id
    UNION ALL
    SELECT job.id, delivery.reason
    FROM (SELECT id, message_id FROM job WHERE account_id = :account_id AND state = 'queued' AND held = 0
          ORDER BY due_at DESC LIMIT 10) AS job
    JOIN delivery ON delivery.message_id = job.message_id
) AS newest
WHERE reason IS NOT NULL ORDER BY id DESC LIMIT 1;

-- name: find_account$
SELECT id FROM account
WHERE email = :email AND coalesce(host, '') = coalesce(:host, '') AND coalesce(port, -1) = coalesce(:port, -1)
  AND coalesce(username, '') = coalesce(:username, '');

-- name: insert_account$
INSERT INTO account (email, name, host, port, security, username, credential, daily_limit, connections,
                     logins_per_minute, pipelining, chunking, source, created_at, updated_at)
VALUES (:email, :name, :host, :port, :security, :username, :credential, :daily_limit, :connections,
        :logins_per_minute, :pipelining, :chunking, :source, :now, :now)
RETURNING id;

-- name: update_account!
UPDATE account SET name = :name, security = :security, credential = :credential, daily_limit = :daily_limit,
                   connections = :connections, logins_per_minute = :logins_per_minute,
                   pipelining = :pipelining, chunking = :chunking, updated_at = :now
WHERE id = :account_id;

-- name: stored_credentials
SELECT credential FROM account WHERE credential IS NOT NULL;

-- name: active_keys
SELECT digest, account_id FROM api_key WHERE revoked_at IS NULL;

-- name: used_keys
SELECT digest FROM api_key WHERE revoked_at IS NULL AND used_at IS NOT NULL;

-- name: key_is_used$
SELECT count(*) FROM api_key WHERE digest = :digest AND revoked_at IS NULL AND used_at IS NOT NULL;

-- name: note_key_used!
UPDATE api_key SET used_at = :now WHERE digest = :digest AND used_at IS NULL;

-- name: words_of_deliveries
SELECT d.id, m.account_id, d.reason, d.reply_text FROM delivery d JOIN message m ON m.id = d.message_id
WHERE d.id > :after AND (d.reason IS NOT NULL OR d.reply_text IS NOT NULL) ORDER BY d.id LIMIT :most;

-- name: words_of_events
SELECT e.id, m.account_id, e.detail, e.detail FROM event e JOIN message m ON m.id = e.message_id
WHERE e.id > :after AND e.detail IS NOT NULL ORDER BY e.id LIMIT :most;

-- name: words_of_attempts
SELECT a.id, m.account_id, a.reply_text, a.reply_text
FROM attempt a JOIN job j ON j.id = a.job_id JOIN message m ON m.id = j.message_id
WHERE a.id > :after AND a.reply_text IS NOT NULL ORDER BY a.id LIMIT :most;

-- name: words_of_accounts
SELECT id, id, state_reason, state_reason FROM account
WHERE id > :after AND state_reason IS NOT NULL ORDER BY id LIMIT :most;

-- name: reword_delivery!
UPDATE delivery SET reason = :first, reply_text = :second WHERE id = :id;

-- name: reword_event!
UPDATE event SET detail = :first WHERE id = :id;

-- name: reword_attempt!
UPDATE attempt SET reply_text = :first WHERE id = :id;

-- name: reword_account!
UPDATE account SET state_reason = :first WHERE id = :id;

-- name: grant_key!
INSERT INTO api_key (account_id, digest, source, created_at) VALUES (:account_id, :digest, :source, :now)
ON CONFLICT (digest) DO UPDATE SET account_id = excluded.account_id, revoked_at = NULL;

-- name: keys_of_source
SELECT digest FROM api_key WHERE source = :source AND revoked_at IS NULL;

-- name: revoke_key!
UPDATE api_key SET revoked_at = :now WHERE digest = :digest AND revoked_at IS NULL;

-- name: account_worked!
UPDATE account SET worked_at = :now, worked_with = :worked_with WHERE id = :account_id;

-- name: keep_server!
UPDATE account SET worked_with = :worked_with WHERE id = :account_id;

-- name: note_server_lacks!
UPDATE account SET server_lacks = :lacks WHERE id = :account_id;

-- name: resume_account!
UPDATE account SET state = 'active', state_reason = NULL, state_since = NULL, resume_at = NULL, setbacks = 0
WHERE id = :account_id AND state <> 'active';

-- name: account_passed!
UPDATE account SET passed_at = :now WHERE id = :account_id;

-- name: set_account_aside!
UPDATE account SET state = :state, state_reason = :reason, state_since = :now, resume_at = :resume_at,
                   setbacks = :setbacks
WHERE id = :account_id;

-- name: account_state^
SELECT state, state_since, setbacks FROM account WHERE id = :account_id;

-- name: take_probe$
-- One worker tries whether an account goes on; another one not before `again`.
UPDATE account SET resume_at = :again WHERE id = :account_id AND state <> 'active' AND resume_at <= :now RETURNING id;

-- name: read_pace^
SELECT gap, average, since, taken, slowed_at, refusals, paid_until FROM pace WHERE account_id = :account_id;

-- name: write_pace!
INSERT INTO pace (account_id, gap, average, since, taken, slowed_at, refusals, paid_until)
VALUES (:account_id, :gap, :average, :since, :taken, :slowed_at, :refusals, :paid_until)
ON CONFLICT (account_id) DO UPDATE SET gap = excluded.gap, average = excluded.average, since = excluded.since,
    taken = excluded.taken, slowed_at = excluded.slowed_at, refusals = excluded.refusals, paid_until = excluded.paid_until;

-- name: forget_pace!
DELETE FROM pace WHERE account_id = :account_id;


-- ---------------------------------------------------------------- acceptance

-- name: find_idempotent^
SELECT fingerprint, request_id FROM idempotency WHERE account_id = :account_id AND key = :key;

-- name: add_idempotency!
-- None is added where the key was used before.
INSERT INTO idempotency (account_id, key, fingerprint, request_id, created_at)
VALUES (:account_id, :key, :fingerprint, :request_id, :now)
ON CONFLICT (account_id, key) DO NOTHING;

-- name: add_delivery!
INSERT INTO delivery (message_id, forward_path, checksum)
SELECT id, :forward_path, :checksum FROM message WHERE request_id = :request_id;

-- name: insert_event!
INSERT INTO event (message_id, delivery_id, at, kind, detail) VALUES (:message_id, :delivery_id, :at, :kind, :detail);


-- ---------------------------------------------------------------- the queue

-- name: accounts_due
-- With those that may send soon: their jobs are due already, and must not be forgotten (store/floors.py).
SELECT id, email, name, host, port, security, username, credential, daily_limit, connections,
       logins_per_minute, pipelining, chunking, state, state_reason, state_since, resume_at, worked_at,
       worked_with, passed_at, (SELECT gap FROM pace WHERE pace.account_id = account.id),
       (SELECT paid_until FROM pace WHERE pace.account_id = account.id), server_lacks
FROM account
WHERE (state = 'active' OR resume_at <= :soon)
  AND EXISTS (SELECT 1 FROM job
              WHERE job.account_id = account.id AND job.state = 'queued' AND job.held = 0
                AND job.due_at BETWEEN :due_from AND :now);

-- name: claim_job!
UPDATE job SET state = 'claimed', claim_token = :token, claimed_by = :worker_id, claimed_at = :now,
               attempt = attempt + 1, reserved_slot = :reserved_slot, reserved = :reserved
WHERE id = :job_id AND state = 'queued';

-- name: usage_since^
-- What an account has used from a slot on, and the first slot of it that is not empty.
SELECT coalesce(sum(recipients), 0), min(slot) FROM account_usage
WHERE account_id = :account_id AND slot BETWEEN :slot AND :latest AND recipients > 0;

-- name: reserve_usage!
INSERT INTO account_usage (account_id, slot, recipients) VALUES (:account_id, :slot, :recipients)
ON CONFLICT (account_id, slot) DO UPDATE SET recipients = account_usage.recipients + excluded.recipients;

-- name: return_usage!
UPDATE account_usage SET recipients = CASE WHEN recipients > :recipients THEN recipients - :recipients ELSE 0 END
WHERE account_id = (SELECT account_id FROM job WHERE id = :job_id) AND slot = :slot;

-- name: forget_usage!
DELETE FROM account_usage WHERE slot < :slot;

-- name: resume_within_limit!
-- Something that an account had reserved came back: what it was parked for is over.
UPDATE account SET state = 'active', state_reason = NULL, state_since = NULL, resume_at = NULL
WHERE id = (SELECT account_id FROM job WHERE id = :job_id) AND state = 'parked' AND state_reason LIKE :reason;

-- name: take_connection$
INSERT INTO connection (account_id, worker_id)
SELECT :account_id, :worker_id
WHERE (SELECT count(*) FROM connection WHERE account_id = :account_id) < :most
RETURNING id;

-- name: reserve_login$
-- When the log-ins so far are paid for, the one that is asked for included; a clock that was set back owes nothing.
UPDATE account
SET logins_until = CASE WHEN logins_until > :now AND logins_until <= :latest THEN logins_until ELSE :now END + :interval
WHERE id = :account_id
RETURNING logins_until;

-- name: count_connections$
SELECT count(*) FROM connection;

-- name: return_connection!
DELETE FROM connection WHERE id = :connection_id;

-- name: return_connections_of!
DELETE FROM connection WHERE worker_id = :worker_id;

-- name: pending_deliveries
SELECT id, forward_path, checksum FROM delivery WHERE message_id = :message_id AND state = 'pending' ORDER BY id;

-- name: mark_dot!
UPDATE job SET dot_at = :now WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: unmark_dot!
UPDATE job SET dot_at = NULL WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: requeue_job!
UPDATE job SET state = 'queued', due_at = :due_at, held = :held, attempt = attempt - :refund,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: note_draw!
-- The message that drew a refusal of its account goes after all others that wait, and is due when the account goes on.
-- It counts the refusals between which others have passed.
UPDATE job SET drawn = CASE WHEN drawn = 0 OR drawn_at < (SELECT passed_at FROM account WHERE id = job.account_id)
                            THEN drawn + 1 ELSE drawn END,
               drawn_at = :now,
               due_at = coalesce((SELECT resume_at FROM account WHERE id = job.account_id), due_at)
WHERE id = :job_id AND state = 'queued';

-- name: call_drawn!
-- The account goes on: so does what waited for it.
UPDATE job SET due_at = :now
WHERE account_id = :account_id AND state = 'queued' AND held = 0 AND drawn_at IS NOT NULL
  AND due_at > :now AND due_at <= (SELECT resume_at FROM account WHERE id = :account_id);

-- name: waits_too_long$
SELECT EXISTS (SELECT 1 FROM account WHERE resume_at > :latest_resume)
    OR EXISTS (SELECT 1 FROM job
               WHERE account_id IN (SELECT id FROM account) AND state = 'queued' AND held = 0 AND due_at > :soon
                 AND (attempt = 0 AND drawn_at IS NULL
                      OR due_at > CASE WHEN drawn_at IS NULL THEN :latest ELSE :latest_resume END));

-- name: repair_due_times!
-- What a clock that was ahead has left: mail that was never tried is due soon, and nothing waits longer than it ever should.
UPDATE job SET due_at = :now
WHERE id IN (SELECT id FROM job
             WHERE account_id IN (SELECT id FROM account) AND state = 'queued' AND held = 0 AND due_at > :soon
               AND (attempt = 0 AND drawn_at IS NULL
                    OR due_at > CASE WHEN drawn_at IS NULL THEN :latest ELSE :latest_resume END)
             LIMIT :count);

-- name: mend_resume_times!
UPDATE account SET resume_at = :now WHERE resume_at > :latest;

-- name: message_id$
SELECT id FROM message WHERE request_id = :request_id;

-- name: newest_message^
SELECT request_id, accepted_at FROM message ORDER BY id DESC LIMIT 1;

-- name: doubt_deliveries!
UPDATE delivery SET possible_duplicate = 1, reason = :reason
WHERE state = 'pending' AND message_id IN (
    SELECT job.message_id FROM job JOIN message ON message.id = job.message_id
    WHERE (job.state = 'queued' OR (job.state = 'claimed' AND :claimed = 1)) AND job.held = 0 AND message.accepted_at <= :until);

-- name: add_held_events!
INSERT INTO event (message_id, at, kind, detail)
SELECT job.message_id, :now, 'held', :reason FROM job JOIN message ON message.id = job.message_id
WHERE (job.state = 'queued' OR (job.state = 'claimed' AND :claimed = 1)) AND job.held = 0 AND message.accepted_at <= :until;

-- name: hold_jobs!
UPDATE job SET state = 'queued', held = 1, claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE (state = 'queued' OR (state = 'claimed' AND :claimed = 1)) AND held = 0
  AND message_id IN (SELECT id FROM message WHERE accepted_at <= :until);

-- name: tokens_of
SELECT claim_token FROM job WHERE claimed_by = :worker_id AND state = 'claimed';

-- name: newest_messages
SELECT id FROM message ORDER BY id DESC LIMIT :most;

-- name: newest_messages_of
SELECT id FROM message WHERE account_id = :account_id ORDER BY id DESC LIMIT :most;

-- name: newest_held_messages
SELECT message_id FROM job WHERE held = 1 ORDER BY message_id DESC LIMIT :most;

-- name: newest_held_messages_of
SELECT message_id FROM job WHERE held = 1 AND account_id = :account_id ORDER BY message_id DESC LIMIT :most;

-- name: accounts_of
SELECT id FROM account WHERE email = :email;

-- name: job_counts
SELECT account_id, state, CAST(sum(jobs) AS BIGINT) FROM job_count GROUP BY account_id, state;

-- name: held_counts
SELECT account_id, count(*) FROM job WHERE held = 1 GROUP BY account_id;

-- name: messages_between
SELECT request_id FROM message WHERE request_id >= :first AND request_id <= :last ORDER BY request_id LIMIT :most;

-- name: held_messages
SELECT message.request_id FROM job JOIN message ON message.id = job.message_id
WHERE job.held = 1 ORDER BY job.message_id;

-- name: release_held!
UPDATE job SET held = 0, crashes = 0, due_at = :now WHERE message_id = :message_id AND state = 'queued' AND held = 1;

-- name: cancel_job!
UPDATE job SET state = 'cancelled', held = 0, finished_at = :now WHERE message_id = :message_id AND state = 'queued';

-- name: cancel_deliveries!
UPDATE delivery SET state = 'cancelled', finished_at = :now WHERE message_id = :message_id AND state = 'pending';

-- name: count_crash!
UPDATE job SET crashes = crashes + 1, held = CASE WHEN :held = 1 THEN 1 ELSE held END
WHERE id = :job_id AND state = 'queued';

-- name: doubtful_deliveries
SELECT id FROM delivery WHERE message_id = :message_id AND state = 'pending' AND possible_duplicate = 1 ORDER BY id;

-- name: suspect_in_hand$
SELECT EXISTS (SELECT 1 FROM job WHERE claimed_by = :worker_id AND state = 'claimed' AND crashes >= :crashes);

-- name: end_job!
UPDATE job SET state = :state, finished_at = :now,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: end_delivery!
UPDATE delivery SET state = :state, reason = :reason, reply_code = :reply_code, reply_enhanced = :reply_enhanced,
                    reply_text = :reply_text, finished_at = :now
WHERE id = :delivery_id AND state = 'pending';

-- name: defer_delivery!
UPDATE delivery SET reason = :reason, reply_code = :reply_code, reply_enhanced = :reply_enhanced,
                    reply_text = :reply_text,
                    possible_duplicate = CASE WHEN :possible_duplicate = 1 THEN 1 ELSE possible_duplicate END
WHERE id = :delivery_id AND state = 'pending';

-- name: any_delivery_failed$
SELECT EXISTS (SELECT 1 FROM delivery WHERE message_id = :message_id AND state = 'failed');

-- name: insert_attempt!
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text)
VALUES (:job_id, :number, :worker_id, :started_at, :now, :outcome, :reply_code, :reply_enhanced, :reply_text);


-- ---------------------------------------------------------------- workers

-- name: insert_worker$
INSERT INTO worker (host, pid, lock_file, started_at, lease_until)
VALUES (:host, :pid, :lock_file, :now, :lease_until)
RETURNING id;

-- name: renew_lease!
UPDATE worker SET lease_until = :lease_until WHERE id = :worker_id AND gone_at IS NULL;

-- name: living_workers
SELECT id, host, pid, lock_file, lease_until FROM worker WHERE gone_at IS NULL ORDER BY id;

-- name: gone_with_hands_full
-- Workers that were buried and still own something.
SELECT id FROM worker
WHERE gone_at IS NOT NULL AND (EXISTS (SELECT 1 FROM job WHERE job.claimed_by = worker.id AND job.state = 'claimed')
                               OR EXISTS (SELECT 1 FROM connection WHERE connection.worker_id = worker.id))
ORDER BY id;

-- name: bury_worker!
UPDATE worker SET gone_at = :now
WHERE id = :worker_id AND gone_at IS NULL AND lease_until = coalesce(:lease, lease_until);

-- ---------------------------------------------------------------- what became of it

-- name: message_state^
SELECT message.id, message.account_id, job.state, job.held, job.due_at, account.resume_at,
       CASE WHEN account.state = 'paused' THEN account.state_reason END
FROM message JOIN account ON account.id = message.account_id LEFT JOIN job ON job.message_id = message.id
WHERE message.request_id = :request_id;

-- name: deliveries_of
SELECT forward_path, state, reason, possible_duplicate FROM delivery WHERE message_id = :message_id ORDER BY id;

-- name: events_of
SELECT event.at, event.kind, delivery.forward_path, event.detail
FROM event LEFT JOIN delivery ON delivery.id = event.delivery_id
WHERE event.message_id = :message_id ORDER BY event.id;


-- ---------------------------------------------------------------- email_log.txt

-- name: insert_log_line!
INSERT INTO log_line (message_id) VALUES (:message_id);

-- name: unwritten_log_lines
-- One row for each recipient of the oldest lines.
SELECT log_line.message_id, message.request_id, message.reverse_path, message.accepted_at,
       delivery.forward_path, delivery.state, delivery.reason
FROM (SELECT id, message_id FROM log_line WHERE batch IS NULL ORDER BY id LIMIT :count) AS log_line
     JOIN message ON message.id = log_line.message_id JOIN delivery ON delivery.message_id = log_line.message_id
ORDER BY log_line.id, delivery.id;

-- name: begin_log_batch$
INSERT INTO log_batch (start, writer) VALUES (:start, :writer) RETURNING id;

-- name: open_log_batch^
SELECT id, start FROM log_batch WHERE writer = :writer ORDER BY id LIMIT 1;

-- name: log_lines_of_batch
SELECT log_line.message_id, message.request_id, message.reverse_path, message.accepted_at,
       delivery.forward_path, delivery.state, delivery.reason
FROM log_line JOIN message ON message.id = log_line.message_id
     JOIN delivery ON delivery.message_id = log_line.message_id
WHERE log_line.batch = :batch
ORDER BY log_line.id, delivery.id;

-- name: return_log_lines!
UPDATE log_line SET batch = NULL WHERE batch = :batch;

-- name: delete_log_lines!
DELETE FROM log_line WHERE batch = :batch;

-- name: delete_log_batch!
DELETE FROM log_batch WHERE id = :batch;


-- ---------------------------------------------------------------- contents

-- name: begin_upload!
INSERT INTO upload (id, began_at) VALUES (:upload, :now);

-- name: add_piece!
INSERT INTO content_piece (upload, number, octets) VALUES (:upload, :number, :octets);

-- name: end_upload!
-- Whoever ends it has it: the acceptance of its message, or what drops it.
DELETE FROM upload WHERE id = :upload;

-- name: tie_upload!
INSERT INTO pieced_content (message_id, upload, checksum)
SELECT id, :upload, :checksum FROM message WHERE request_id = :request_id;

-- name: drop_empty_content!
DELETE FROM content WHERE message_id = (SELECT id FROM message WHERE request_id = :request_id);

-- name: delete_pieces!
DELETE FROM content_piece WHERE upload = :upload;

-- name: piece_of$
SELECT octets FROM content_piece
WHERE upload = (SELECT upload FROM pieced_content WHERE message_id = :message_id) AND number = :number;

-- name: part_of$
-- Of a content that was stored as a whole.
SELECT substr(mime, :first, :octets) FROM content WHERE message_id = :message_id;


-- ---------------------------------------------------------------- retention

-- name: over_after
SELECT id, message_id, finished_at FROM job
WHERE finished_at IS NOT NULL AND (finished_at, id) > (:after, :after_id) AND finished_at <= :until
ORDER BY finished_at, id LIMIT :count;

-- name: over_and_logged
SELECT id, message_id FROM job
WHERE finished_at <= :until AND NOT EXISTS (SELECT 1 FROM log_line WHERE log_line.message_id = job.message_id)
ORDER BY finished_at, id LIMIT :count;

-- name: octets_of$
-- Of an account's messages whose content is kept.
SELECT CAST(coalesce(sum(message.size), 0) AS BIGINT)
FROM message WHERE message.account_id = :account_id
  AND (EXISTS (SELECT 1 FROM content WHERE content.message_id = message.id)
       OR EXISTS (SELECT 1 FROM pieced_content WHERE pieced_content.message_id = message.id));

-- name: delete_content!
DELETE FROM content WHERE message_id = :message_id;

-- name: delete_pieces_of!
DELETE FROM content_piece WHERE upload = (SELECT upload FROM pieced_content WHERE message_id = :message_id);

-- name: delete_pieced_content!
DELETE FROM pieced_content WHERE message_id = :message_id;

-- name: old_uploads
SELECT id FROM upload WHERE began_at <= :until ORDER BY id LIMIT :count;

-- name: delete_attempts!
DELETE FROM attempt WHERE job_id = :job_id;

-- name: delete_events!
DELETE FROM event WHERE message_id = :message_id;

-- name: delete_deliveries!
DELETE FROM delivery WHERE message_id = :message_id;

-- name: delete_job!
DELETE FROM job WHERE id = :job_id;

-- name: delete_message!
DELETE FROM message WHERE id = :message_id;

-- name: old_idempotency_keys
-- A mail that is still there, as one that is held, must not be accepted again.
SELECT account_id, key FROM idempotency
WHERE created_at <= :until AND NOT EXISTS (SELECT 1 FROM message WHERE message.request_id = idempotency.request_id)
ORDER BY created_at LIMIT :count;

-- name: delete_idempotency_key!
DELETE FROM idempotency WHERE account_id = :account_id AND key = :key;


-- ---------------------------------------------------------------- migrations

-- name: create_migration_table!
CREATE TABLE IF NOT EXISTS schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at BIGINT NOT NULL
);

-- name: applied_migration$
SELECT checksum FROM schema_migration WHERE version = :version;

-- name: newest_migration$
SELECT coalesce(max(version), 0) FROM schema_migration;

-- name: insert_migration!
INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (:version, :name, :checksum, :now);
