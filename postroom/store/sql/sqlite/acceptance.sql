-- Writes of acceptance: message, content, delivery, job, event, idempotency key. As SQLite writes it.

-- name: accept_message!
-- Message, content, first delivery, job and event, through the view's trigger.
INSERT INTO acceptance (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, mime,
                        checksum, forward_path, envelope_checksum, not_before, key_id, test, traceparent, kind)
VALUES (:request_id, :account_id, :reverse_path, :subject, :size, :smtputf8, :now, :in_doubt, :mime, :checksum,
        :forward_path, :envelope_checksum, :not_before, :key_id, :test, :traceparent, :kind);

-- name: count_accepted!
INSERT INTO job_count (account_id, state, jobs) VALUES (:account_id, 'accepted', :jobs)
ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + excluded.jobs;
