-- Totals of the installation. As PostgreSQL writes it.

-- name: raise_total!
-- A row of its own, so that no commit waits for another one.
INSERT INTO counter (name, label, value) VALUES (:name, :label, :value);

-- name: raise_total_many
INSERT INTO counter (name, label, value)
SELECT * FROM unnest(CAST(:name AS text[]), CAST(:label AS text[]), CAST(:value AS bigint[]));
