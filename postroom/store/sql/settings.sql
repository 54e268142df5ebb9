-- Named values of the installation.

-- name: read_setting$
SELECT value FROM setting WHERE name = :name;

-- name: add_setting!
INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: write_setting!
INSERT INTO setting (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: forget_setting!
DELETE FROM setting WHERE name = :name;
