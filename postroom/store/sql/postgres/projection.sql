-- What is noted of messages after their commit, from their events in the order of their ids. As PostgreSQL writes it.

-- name: events_seen^
-- Ids are given before their commits: what lacks between those that are seen may come yet, until each transaction has ended that
-- runs by then.
SELECT coalesce(max(id), 0) AS newest, CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest,
       CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next FROM event;

-- name: events_between$
SELECT CAST(coalesce(json_agg(json_build_array(id, message_id, kind, at, account_id, test)), '[]') AS text)
FROM (SELECT event.id, event.message_id, event.kind, event.at, message.account_id, message.test
      FROM event JOIN message ON message.id = event.message_id
      WHERE event.id > :after AND event.id <= :until ORDER BY event.id LIMIT :most) AS next;

-- name: noted_messages$
SELECT CAST(coalesce(json_agg(json_build_array(message_id, account_id, accepted_at, test, pool_key, job_state, held, not_before,
                                               finished_at, forward_path, state, reason)), '[]') AS text)
FROM (SELECT message.id AS message_id, message.account_id, message.accepted_at, message.test,
             (SELECT id FROM issued_key WHERE id = message.key_id AND pool_id IS NOT NULL) AS pool_key,
             job.state AS job_state, job.held, job.not_before, job.finished_at,
             delivery.forward_path, delivery.state, delivery.reason
      FROM json_array_elements_text(CAST(:messages AS json)) AS given JOIN message ON message.id = CAST(given.value AS bigint)
           LEFT JOIN job ON job.message_id = message.id
           JOIN delivery ON delivery.message_id = message.id
      ORDER BY message.id, delivery.id) AS noted;

-- name: deferrals_of
SELECT event.message_id, event.at
FROM json_array_elements_text(CAST(:messages AS json)) AS given JOIN event ON event.message_id = CAST(given.value AS bigint)
WHERE event.kind = 'deferred' AND event.id <= :until;

-- name: noted_with
-- An array, so that each is looked up, however many notes of this kind there are.
SELECT message_id FROM listed
WHERE kind = :kind AND value = :value
  AND message_id = ANY (ARRAY(SELECT CAST(given.value AS bigint) FROM json_array_elements_text(CAST(:messages AS json)) AS given));

-- name: add_notes!
INSERT INTO listed (kind, value, message_id)
SELECT CAST(given.value ->> 0 AS smallint), CAST(given.value ->> 1 AS bigint), CAST(given.value ->> 2 AS bigint)
FROM json_array_elements(CAST(:rows AS json)) AS given
ON CONFLICT (kind, value, message_id) DO NOTHING;

-- name: remove_notes!
DELETE FROM listed USING json_array_elements(CAST(:rows AS json)) AS given
WHERE listed.kind = CAST(given.value ->> 0 AS smallint) AND listed.value = CAST(given.value ->> 1 AS bigint)
  AND listed.message_id = CAST(given.value ->> 2 AS bigint);
