-- Events of messages.

-- name: insert_event!
INSERT INTO event (message_id, delivery_id, at, kind, detail) VALUES (:message_id, :delivery_id, :at, :kind, :detail);

-- name: events_of
SELECT event.at, event.kind, delivery.forward_path, event.detail
FROM event LEFT JOIN delivery ON delivery.id = event.delivery_id
WHERE event.message_id = :message_id ORDER BY event.id;

-- name: names_of_message^
SELECT request_id, reverse_path, traceparent FROM message WHERE id = :message_id;

-- name: recipients_of_event
SELECT forward_path FROM delivery
WHERE message_id = :message_id AND (CAST(:delivery_id AS BIGINT) IS NULL OR id = :delivery_id) ORDER BY id;
