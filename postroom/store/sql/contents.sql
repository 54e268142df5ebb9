-- Contents of messages: whole, or in pieces.

-- name: begin_upload!
INSERT INTO upload (id, began_at) VALUES (:upload, :now);

-- name: add_piece!
INSERT INTO content_piece (upload, number, octets) VALUES (:upload, :number, :octets);

-- name: end_upload!
-- One of two ends an upload: the acceptance of its message, or its removal.
DELETE FROM upload WHERE id = :upload;

-- name: tie_upload!
INSERT INTO pieced_content (message_id, upload, checksum)
SELECT id, :upload, :checksum FROM message WHERE request_id = :request_id;

-- name: drop_empty_content!
DELETE FROM content WHERE message_id = (SELECT id FROM message WHERE request_id = :request_id);

-- name: delete_pieces!
DELETE FROM content_piece WHERE upload = :upload;

-- name: piece_of$
SELECT octets FROM content_piece
WHERE upload = (SELECT upload FROM pieced_content WHERE message_id = :message_id) AND number = :number;

-- name: part_of$
-- Of a content that was stored as a whole.
SELECT substr(mime, :first, :octets) FROM content WHERE message_id = :message_id;

-- name: delete_content!
DELETE FROM content WHERE message_id = :message_id;

-- name: delete_pieces_of!
DELETE FROM content_piece WHERE upload = (SELECT upload FROM pieced_content WHERE message_id = :message_id);

-- name: delete_pieced_content!
DELETE FROM pieced_content WHERE message_id = :message_id;

-- name: old_uploads
SELECT id FROM upload WHERE began_at <= :until ORDER BY id LIMIT :count;

-- name: kept_content^
SELECT id AS message_id, size FROM message
WHERE request_id = :request_id
  AND (EXISTS (SELECT 1 FROM content WHERE content.message_id = message.id)
       OR EXISTS (SELECT 1 FROM pieced_content WHERE pieced_content.message_id = message.id));
