-- SMTP connections and log-ins, which all workers share.

-- name: take_connection$
INSERT INTO connection (account_id, worker_id)
SELECT :account_id, :worker_id
WHERE (SELECT count(*) FROM connection WHERE account_id = :account_id) < :most
RETURNING id;

-- name: reserve_login$
-- When the log-ins so far are paid for, the one that is asked for included; a clock that was set back owes nothing.
UPDATE account
SET logins_until = CASE WHEN logins_until > :now AND logins_until <= :latest THEN logins_until ELSE :now END + :interval
WHERE id = :account_id
RETURNING logins_until;

-- name: count_connections$
SELECT count(*) FROM connection;

-- name: connections_in_use^
SELECT (SELECT count(*) FROM connection WHERE connection.account_id = account.id) AS connections, account.logins_until
FROM account WHERE account.id = :account_id;

-- name: return_connection!
DELETE FROM connection WHERE id = :connection_id;

-- name: return_connections_of!
DELETE FROM connection WHERE worker_id = :worker_id;
