-- The migrations that were applied.

-- name: create_migration_table!
CREATE TABLE IF NOT EXISTS schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at BIGINT NOT NULL
);

-- name: applied_migration$
SELECT checksum FROM schema_migration WHERE version = :version;

-- name: newest_migration$
SELECT coalesce(max(version), 0) FROM schema_migration;

-- name: insert_migration!
INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (:version, :name, :checksum, :now);

-- name: end_all_workers!
UPDATE worker SET gone_at = :now WHERE gone_at IS NULL;

-- name: disown_claims!
-- No worker has such a token in hand, so none can mark a dot by it; recovery takes it as it finds it.
UPDATE job SET claim_token = -claim_token WHERE state = 'claimed' AND dot_at IS NULL AND claim_token > 0;
