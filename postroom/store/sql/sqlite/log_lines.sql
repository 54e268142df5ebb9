-- The outbox of email_log.txt. As SQLite writes it.

-- name: add_to_log_batch!
UPDATE log_line SET batch = :batch WHERE batch IS NULL AND message_id IN (SELECT value FROM json_each(:messages));
