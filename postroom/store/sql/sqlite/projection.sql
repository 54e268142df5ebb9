-- What is noted of messages after their commit, from their events in the order of their ids. As SQLite writes it.

-- name: events_seen^
-- One transaction writes at a time, so what is seen is complete.
SELECT coalesce(max(id), 0) AS newest, 0 AS oldest, 0 AS next FROM event;

-- name: events_between$
SELECT json_group_array(json_array(id, message_id, kind, at, account_id, test))
FROM (SELECT event.id, event.message_id, event.kind, event.at, message.account_id, message.test
      FROM event JOIN message ON message.id = event.message_id
      WHERE event.id > :after AND event.id <= :until ORDER BY event.id LIMIT :most);

-- name: noted_messages$
SELECT json_group_array(json_array(message_id, account_id, accepted_at, test, pool_key, job_state, held, not_before, finished_at,
                                   forward_path, state, reason))
FROM (SELECT message.id AS message_id, message.account_id, message.accepted_at, message.test,
             (SELECT id FROM issued_key WHERE id = message.key_id AND pool_id IS NOT NULL) AS pool_key,
             job.state AS job_state, job.held, job.not_before, job.finished_at,
             delivery.forward_path, delivery.state, delivery.reason
      FROM json_each(:messages) AS given JOIN message ON message.id = given.value
           LEFT JOIN job ON job.message_id = message.id
           JOIN delivery ON delivery.message_id = message.id
      ORDER BY message.id, delivery.id);

-- name: deferrals_of
SELECT event.message_id, event.at FROM json_each(:messages) AS given JOIN event ON event.message_id = given.value
WHERE event.kind = 'deferred' AND event.id <= :until;

-- name: noted_with
SELECT message_id FROM listed
WHERE kind = :kind AND value = :value AND message_id IN (SELECT given.value FROM json_each(:messages) AS given);

-- name: add_notes!
INSERT INTO listed (kind, value, message_id)
SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:rows) WHERE true
ON CONFLICT (kind, value, message_id) DO NOTHING;

-- name: remove_notes!
DELETE FROM listed WHERE (kind, value, message_id) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:rows));
