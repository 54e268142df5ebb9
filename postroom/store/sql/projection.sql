-- What is noted of messages after their commit, from their events in the order of their ids.

-- name: newest_event$
SELECT coalesce(max(id), 0) FROM event;

-- name: newest_message_id$
SELECT coalesce(max(id), 0) FROM message;

-- name: advance_setting!
UPDATE setting SET value = :value WHERE name = :name AND value = :former;

-- name: note_block!
INSERT INTO listed_block (block, first_at, last_at) VALUES (:block, :first_at, :last_at)
ON CONFLICT (block) DO UPDATE SET
    first_at = CASE WHEN excluded.first_at < listed_block.first_at THEN excluded.first_at ELSE listed_block.first_at END,
    last_at = CASE WHEN excluded.last_at > listed_block.last_at THEN excluded.last_at ELSE listed_block.last_at END;

-- name: count_daily!
INSERT INTO daily_count (account_id, day, measure, step, messages) VALUES (:account_id, :day, :measure, :step, :messages)
ON CONFLICT (account_id, day, measure, step) DO UPDATE SET messages = daily_count.messages + excluded.messages;

-- name: forget_blocks!
DELETE FROM listed_block WHERE block < :block;

-- name: oldest_message$
SELECT coalesce(min(id), 0) FROM message;

-- name: paths_of
SELECT forward_path FROM delivery WHERE message_id = :message_id ORDER BY id;
