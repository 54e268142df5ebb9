-- Stored server replies, in every table.

-- name: words_of_deliveries
SELECT d.id, m.account_id, d.reason AS first, d.reply_text AS second FROM delivery d JOIN message m ON m.id = d.message_id
WHERE d.id > :after AND (d.reason IS NOT NULL OR d.reply_text IS NOT NULL) ORDER BY d.id LIMIT :most;

-- name: words_of_events
SELECT e.id, m.account_id, e.detail AS first, e.detail AS second FROM event e JOIN message m ON m.id = e.message_id
WHERE e.id > :after AND e.detail IS NOT NULL ORDER BY e.id LIMIT :most;

-- name: words_of_attempts
SELECT a.id, m.account_id, a.reply_text AS first, a.reply_text AS second
FROM attempt a JOIN job j ON j.id = a.job_id JOIN message m ON m.id = j.message_id
WHERE a.id > :after AND a.reply_text IS NOT NULL ORDER BY a.id LIMIT :most;

-- name: words_of_accounts
SELECT id, id AS account_id, state_reason AS first, state_reason AS second FROM account
WHERE id > :after AND state_reason IS NOT NULL ORDER BY id LIMIT :most;

-- name: reword_delivery!
UPDATE delivery SET reason = :first, reply_text = :second WHERE id = :id;

-- name: reword_event!
UPDATE event SET detail = :first WHERE id = :id;

-- name: reword_attempt!
UPDATE attempt SET reply_text = :first WHERE id = :id;

-- name: reword_account!
UPDATE account SET state_reason = :first WHERE id = :id;
