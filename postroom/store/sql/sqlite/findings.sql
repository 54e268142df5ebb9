-- The doctor's findings about accounts, and what it asks the database. As SQLite writes it.

-- name: database_version$
SELECT 'SQLite ' || sqlite_version();

-- name: database_clock$
-- It runs in our process, by our clock.
SELECT CAST(NULL AS INTEGER);
