-- Events of messages.

-- name: insert_event!
INSERT INTO event (message_id, delivery_id, at, kind, detail) VALUES (:message_id, :delivery_id, :at, :kind, :detail);

-- name: events_of
SELECT event.at, event.kind, delivery.forward_path, event.detail
FROM event LEFT JOIN delivery ON delivery.id = event.delivery_id
WHERE event.message_id = :message_id ORDER BY event.id;
