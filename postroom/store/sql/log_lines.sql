-- The outbox of email_log.txt.

-- name: insert_log_line!
INSERT INTO log_line (message_id) VALUES (:message_id);

-- name: unwritten_log_lines
-- One row for each recipient of the oldest lines.
SELECT log_line.message_id, message.request_id, message.reverse_path, message.accepted_at,
       delivery.forward_path, delivery.state, delivery.reason
FROM (SELECT id, message_id FROM log_line WHERE batch IS NULL ORDER BY id LIMIT :count) AS log_line
     JOIN message ON message.id = log_line.message_id JOIN delivery ON delivery.message_id = log_line.message_id
ORDER BY log_line.id, delivery.id;

-- name: begin_log_batch$
INSERT INTO log_batch (start, writer) VALUES (:start, :writer) RETURNING id;

-- name: open_log_batch^
SELECT id, start FROM log_batch WHERE writer = :writer ORDER BY id LIMIT 1;

-- name: log_lines_of_batch
SELECT log_line.message_id, message.request_id, message.reverse_path, message.accepted_at,
       delivery.forward_path, delivery.state, delivery.reason
FROM log_line JOIN message ON message.id = log_line.message_id
     JOIN delivery ON delivery.message_id = log_line.message_id
WHERE log_line.batch = :batch
ORDER BY log_line.id, delivery.id;

-- name: return_log_lines!
UPDATE log_line SET batch = NULL WHERE batch = :batch;

-- name: delete_log_lines!
DELETE FROM log_line WHERE batch = :batch;

-- name: delete_log_batch!
DELETE FROM log_batch WHERE id = :batch;
