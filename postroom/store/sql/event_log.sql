-- Events of all messages, the newest ones.

-- name: events_after
SELECT event.id, event.message_id, message.request_id, event.at, event.kind, delivery.forward_path, event.detail
FROM event JOIN message ON message.id = event.message_id LEFT JOIN delivery ON delivery.id = event.delivery_id
WHERE event.id > :after ORDER BY event.id LIMIT :most;

-- name: newest_events
SELECT event.kind, event.at, message.account_id
FROM event JOIN message ON message.id = event.message_id ORDER BY event.id DESC LIMIT :most;
