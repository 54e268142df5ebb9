-- Counts of messages per account and day. As PostgreSQL writes it.

-- name: daily_of
SELECT day, account_id, measure, step, messages
FROM json_array_elements_text(CAST(:days AS json)) AS given
     JOIN daily_count ON day = CAST(given.value AS integer) AND account_id = :account_id
ORDER BY day DESC;

-- name: names_of_accounts
SELECT account.id, account.uid, account.email
FROM json_array_elements_text(CAST(:accounts AS json)) AS given JOIN account ON account.id = CAST(given.value AS bigint);
