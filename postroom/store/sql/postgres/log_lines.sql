-- The outbox of email_log.txt. As PostgreSQL writes it.

-- name: add_to_log_batch!
UPDATE log_line SET batch = :batch
WHERE batch IS NULL AND message_id IN (SELECT value::bigint FROM json_array_elements_text(CAST(:messages AS json)) AS value);
