-- The state of messages: of one, in a list, of an account.

-- name: newest_message^
SELECT request_id, accepted_at FROM message ORDER BY id DESC LIMIT 1;

-- name: newest_messages
SELECT id FROM message ORDER BY id DESC LIMIT :most;

-- name: newest_messages_of
SELECT id FROM message WHERE account_id = :account_id ORDER BY id DESC LIMIT :most;

-- name: newest_held_messages
SELECT message_id FROM job WHERE held = 1 AND message_id IS NOT NULL ORDER BY message_id DESC LIMIT :most;

-- name: newest_held_messages_of
SELECT message_id FROM job WHERE held = 1 AND message_id IS NOT NULL AND lane = :account_id ORDER BY message_id DESC LIMIT :most;

-- name: job_counts
SELECT account_id, state, CAST(sum(jobs) AS BIGINT) AS jobs FROM job_count GROUP BY account_id, state;

-- name: held_counts
SELECT lane AS account_id, count(*) AS jobs FROM job WHERE held = 1 AND message_id IS NOT NULL GROUP BY lane;

-- name: messages_between
SELECT request_id FROM message WHERE request_id >= :first AND request_id <= :last ORDER BY request_id LIMIT :most;

-- name: message_state^
-- With an account or a key: of their messages alone. A foreign one is then as unknown as any, in statements and time too.
SELECT message.id AS message_id, message.account_id, job.state AS job_state, job.held, job.due_at, account.resume_at,
       CASE WHEN account.state = 'paused' THEN account.state_reason END AS paused_for,
       message.key_id, message.test, message.reverse_path AS sender, job.not_before
FROM message JOIN account ON account.id = message.account_id LEFT JOIN job ON job.message_id = message.id
WHERE message.request_id = :request_id
  AND (CAST(:account_id AS BIGINT) IS NULL OR message.account_id = :account_id)
  AND (CAST(:key_id AS BIGINT) IS NULL OR message.key_id = :key_id);

-- name: deliveries_of
SELECT forward_path, state, reason, possible_duplicate FROM delivery WHERE message_id = :message_id ORDER BY id;

-- name: octets_of$
-- Of an account's messages whose content is kept.
SELECT CAST(coalesce(sum(message.size), 0) AS BIGINT)
FROM message WHERE message.account_id = :account_id
  AND (EXISTS (SELECT 1 FROM content WHERE content.message_id = message.id)
       OR EXISTS (SELECT 1 FROM pieced_content WHERE pieced_content.message_id = message.id));
