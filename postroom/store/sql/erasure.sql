-- The data of a person: messages to an address, and all that names it.

-- name: last_delivery$
SELECT coalesce(max(id), 0) FROM delivery;

-- name: deliveries_to
-- Of a range of ids, so that no read is long however many there are.
SELECT id AS delivery_id, message_id FROM delivery
WHERE id > :after AND id <= :until AND lower(forward_path) = :lowered ORDER BY id;

-- name: deliveries_to_domain
SELECT id AS delivery_id, message_id, forward_path FROM delivery
WHERE id > :after AND id <= :until AND lower(forward_path) LIKE :at_domain ORDER BY id;

-- name: message_to_erase^
SELECT message.id AS message_id, request_id, message.account_id, job.id AS job_id, job.state AS job_state,
       (SELECT hold FROM account WHERE account.id = message.account_id) AS hold,
       (SELECT count(*) FROM delivery WHERE delivery.message_id = message.id AND delivery.state = 'pending') AS pending
FROM message LEFT JOIN job ON job.message_id = message.id WHERE message.id = :message_id;

-- name: message_in_sight$
SELECT id FROM message
WHERE request_id = :request_id AND (CAST(:account_id AS BIGINT) IS NULL OR account_id = :account_id)
  AND (CAST(:key_id AS BIGINT) IS NULL OR key_id = :key_id);

-- name: cancel_delivery!
-- Of a message that waits; its other recipients get it.
UPDATE delivery SET state = 'cancelled', finished_at = :now
WHERE id = :delivery_id AND state = 'pending'
  AND EXISTS (SELECT 1 FROM job WHERE job.message_id = delivery.message_id AND job.state = 'queued');

-- name: words_about
-- What was stored about a message in words.
SELECT 'delivery' AS kind, id, reason AS first, reply_text AS second FROM delivery WHERE message_id = :message_id
UNION ALL
SELECT 'event', id, detail, NULL FROM event WHERE message_id = :message_id
UNION ALL
SELECT 'attempt', id, reply_text, NULL FROM attempt WHERE job_id = :job_id;

-- name: erase_words_of_delivery!
UPDATE delivery SET reason = :first, reply_text = :second WHERE id = :id;

-- name: erase_words_of_event!
UPDATE event SET detail = :first WHERE id = :id;

-- name: erase_words_of_attempt!
UPDATE attempt SET reply_text = :first WHERE id = :id;

-- name: erase_dialogues!
UPDATE attempt SET dialogue = NULL WHERE job_id = :job_id AND dialogue IS NOT NULL;

-- name: erase_recipient!
UPDATE delivery SET forward_path = :substitute, checksum = NULL WHERE id = :delivery_id;

-- name: erase_subject!
UPDATE message SET subject = '' WHERE id = :message_id;

-- name: erase_idempotency!
DELETE FROM idempotency WHERE account_id = :account_id AND request_id = :request_id;

-- name: reasons_of_accounts
SELECT id, state_reason AS words FROM account WHERE state_reason IS NOT NULL;

-- name: erase_reason_of_account!
UPDATE account SET state_reason = :words WHERE id = :id;

-- name: allowed_recipients
SELECT id, allowed_recipients AS words FROM issued_key WHERE allowed_recipients IS NOT NULL;

-- name: erase_allowed_recipient!
UPDATE issued_key SET allowed_recipients = :words WHERE id = :id;

-- name: audit_in_words
SELECT id, coalesce(target, '') || ' ' || coalesce(detail, '') AS words FROM audit WHERE id > :after ORDER BY id LIMIT :most;

-- name: audit_entry^
SELECT target, detail FROM audit WHERE id = :id;

-- name: erase_words_of_audit!
UPDATE audit SET target = :target, detail = :detail WHERE id = :id;

-- name: is_sender$
-- Whether an address is an account's, or an alias of one.
SELECT EXISTS (SELECT 1 FROM account WHERE deleted_at IS NULL AND lower(email) = :lowered)
    OR EXISTS (SELECT 1 FROM account_alias WHERE lower(email) = :lowered);

-- name: details_of_notices
SELECT kind, subject, detail FROM notice;

-- name: erase_detail_of_notice!
UPDATE notice SET detail = :detail WHERE kind = :kind AND subject = :subject;

-- name: words_of_notices_to_send
SELECT notice_id, notice FROM notice_to_send;

-- name: erase_words_of_notice_to_send!
UPDATE notice_to_send SET notice = :notice WHERE notice_id = :notice_id;
