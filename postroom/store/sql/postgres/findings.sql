-- The doctor's findings about accounts, and what it asks the database. As PostgreSQL writes it.

-- name: database_version$
SELECT 'PostgreSQL ' || current_setting('server_version');

-- name: database_clock$
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT);
