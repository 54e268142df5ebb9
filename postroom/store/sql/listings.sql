-- Lists of messages: notes of each, made after its commit, by which a filter finds it.

-- name: noted_before
SELECT message_id FROM listed WHERE kind = :kind AND value = :value AND message_id < :before AND message_id >= :least
ORDER BY message_id DESC LIMIT :most;

-- name: messages_before
SELECT id FROM message WHERE id < :before ORDER BY id DESC LIMIT :most;

-- name: messages_of_before
SELECT id FROM message WHERE account_id = :account_id AND id < :before ORDER BY id DESC LIMIT :most;

-- name: held_before
SELECT message_id FROM job WHERE held = 1 AND message_id IS NOT NULL AND message_id < :before ORDER BY message_id DESC LIMIT :most;

-- name: in_hand
SELECT message_id FROM job WHERE state = 'claimed' AND message_id IS NOT NULL ORDER BY claimed_by LIMIT :most;

-- name: waiting_of
SELECT message_id FROM job WHERE kind = 'delivery' AND lane = :account_id AND state = 'queued' AND held = 0 ORDER BY due_at LIMIT :most;

-- name: waiting_captures
SELECT message_id FROM job WHERE kind = 'capture' AND kind <> 'delivery' AND state = 'queued' AND held = 0
ORDER BY lane, due_at LIMIT :most;

-- name: waiting_deliveries
SELECT message_id FROM job WHERE kind = 'delivery' AND state = 'queued' AND held = 0
ORDER BY lane, due_at LIMIT :most;

-- name: paused_accounts
SELECT id FROM account WHERE state = 'paused' ORDER BY id LIMIT :most;

-- name: first_block_since$
SELECT min(block) FROM listed_block WHERE last_at >= :since;

-- name: last_block_until$
SELECT max(block) FROM listed_block WHERE first_at < :until;

-- name: oldest_block$
SELECT min(block) FROM listed_block;

-- name: events_behind
SELECT message_id FROM event WHERE id > :after ORDER BY id LIMIT :most;

-- name: accounts_named
SELECT id FROM account WHERE email = :named OR uid = :named ORDER BY id;
