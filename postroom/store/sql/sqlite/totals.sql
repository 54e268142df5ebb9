-- Totals of the installation. As SQLite writes it.

-- name: raise_total!
INSERT INTO counter (name, label, value) VALUES (:name, :label, :value)
ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value;
