-- Counts of messages per account and day. As SQLite writes it.

-- name: daily_of
SELECT day, account_id, measure, step, messages
FROM json_each(:days) AS given JOIN daily_count ON day = given.value AND account_id = :account_id
ORDER BY day DESC;

-- name: names_of_accounts
SELECT account.id, account.uid, account.email FROM json_each(:accounts) AS given JOIN account ON account.id = given.value;
