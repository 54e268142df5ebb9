-- The state of messages: of one, in a list, of an account. As SQLite writes it.

-- name: listed_messages
-- Messages of a list, a row for each recipient: what `message_state` and `deliveries_of` say of one.
SELECT message.id AS message_id, message.request_id, account.email, message.accepted_at, message.account_id, job.state AS job_state, job.held, job.due_at,
       account.resume_at, CASE WHEN account.state = 'paused' THEN account.state_reason END AS paused_for, message.key_id, message.test,
       message.reverse_path AS sender, job.not_before,
       account.uid AS account_uid, job.finished_at, message.subject, delivery.forward_path, delivery.state, delivery.reason, delivery.possible_duplicate
FROM json_each(:messages) AS listed JOIN message ON message.id = listed.value
     JOIN account ON account.id = message.account_id
     LEFT JOIN job ON job.message_id = message.id
     JOIN delivery ON delivery.message_id = message.id
ORDER BY message.id, delivery.id;

-- name: light_messages
-- What most filters of a list need.
SELECT message.id AS message_id, message.account_id, message.key_id, message.accepted_at, message.subject, message.test,
       job.state AS job_state, job.held, job.not_before
FROM json_each(:messages) AS given JOIN message ON message.id = given.value LEFT JOIN job ON job.message_id = message.id;

-- name: forward_paths
-- The recipients of messages.
SELECT delivery.message_id, delivery.forward_path
FROM json_each(:messages) AS given JOIN delivery ON delivery.message_id = given.value;

-- name: deferred_messages
-- Of which a recipient waits with a reason.
SELECT DISTINCT delivery.message_id
FROM json_each(:messages) AS given JOIN delivery ON delivery.message_id = given.value
WHERE delivery.state = 'pending' AND delivery.reason IS NOT NULL;
