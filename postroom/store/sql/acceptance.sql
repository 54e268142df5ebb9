-- Writes of acceptance: message, content, delivery, job, event, idempotency key.

-- name: find_idempotent^
SELECT fingerprint, request_id FROM idempotency WHERE account_id = :account_id AND key = :key;

-- name: add_idempotency!
-- None is added where the key was used before.
INSERT INTO idempotency (account_id, key, fingerprint, request_id, created_at)
VALUES (:account_id, :key, :fingerprint, :request_id, :now)
ON CONFLICT (account_id, key) DO NOTHING;

-- name: add_delivery!
INSERT INTO delivery (message_id, forward_path, checksum)
SELECT id, :forward_path, :checksum FROM message WHERE request_id = :request_id;
