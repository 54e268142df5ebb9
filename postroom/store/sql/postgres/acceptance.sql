-- Writes of acceptance: message, content, delivery, job, event, idempotency key. As PostgreSQL writes it.

-- name: accept_message!
-- Message, content, first delivery, job and event in one statement.
WITH message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, key_id, test,
                         traceparent)
    VALUES (:request_id, :account_id, :reverse_path, :subject, :size, :smtputf8, :now, :in_doubt, :key_id, :test, :traceparent)
    RETURNING id, account_id, accepted_at
), content AS (
    INSERT INTO content (message_id, mime, checksum) SELECT id, :mime, :checksum FROM message
), delivery AS (
    INSERT INTO delivery (message_id, forward_path, checksum) SELECT id, :forward_path, :envelope_checksum FROM message
), job AS (
    INSERT INTO job (kind, lane, message_id, due_at, not_before)
    SELECT CAST(:kind AS text), account_id, id, greatest(accepted_at, :not_before), :not_before FROM message
)
INSERT INTO event (message_id, at, kind) SELECT id, accepted_at, 'accepted' FROM message;

-- name: count_accepted!
-- A row of its own, so that no commit waits for another one.
INSERT INTO job_count (account_id, state, jobs) VALUES (:account_id, 'accepted', :jobs);

-- name: accept_message_many
WITH given AS (
    SELECT * FROM unnest(
        CAST(:request_id AS text[]), CAST(:account_id AS bigint[]), CAST(:reverse_path AS text[]),
        CAST(:subject AS text[]), CAST(:size AS integer[]), CAST(:smtputf8 AS smallint[]), CAST(:now AS bigint[]),
        CAST(:in_doubt AS text[]), CAST(:mime AS bytea[]), CAST(:checksum AS bigint[]), CAST(:forward_path AS text[]),
        CAST(:envelope_checksum AS bigint[]), CAST(:not_before AS bigint[]), CAST(:key_id AS bigint[]),
        CAST(:test AS smallint[]), CAST(:traceparent AS text[]), CAST(:kind AS text[])
    ) AS given (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, mime, checksum,
                forward_path, envelope_checksum, not_before, key_id, test, traceparent, kind)
), message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, key_id, test,
                         traceparent)
    SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, key_id, test, traceparent
    FROM given
    RETURNING id, request_id, account_id, accepted_at
), content AS (
    INSERT INTO content (message_id, mime, checksum)
    SELECT message.id, given.mime, given.checksum FROM message JOIN given USING (request_id)
), delivery AS (
    INSERT INTO delivery (message_id, forward_path, checksum)
    SELECT message.id, given.forward_path, given.envelope_checksum FROM message JOIN given USING (request_id)
), job AS (
    INSERT INTO job (kind, lane, message_id, due_at, not_before)
    SELECT given.kind, message.account_id, message.id, greatest(message.accepted_at, given.not_before), given.not_before
    FROM message JOIN given USING (request_id)
), event AS (
    INSERT INTO event (message_id, at, kind) SELECT id, accepted_at, 'accepted' FROM message
)
SELECT request_id FROM message;

-- name: add_idempotency_many
INSERT INTO idempotency (account_id, key, fingerprint, request_id, created_at)
SELECT * FROM unnest(
    CAST(:account_id AS bigint[]), CAST(:key AS text[]), CAST(:fingerprint AS bytea[]), CAST(:request_id AS text[]),
    CAST(:now AS bigint[])
)
ON CONFLICT (account_id, key) DO NOTHING
RETURNING request_id;
