-- Counts of messages per account and day.

-- name: daily_before
SELECT day, account_id, measure, step, messages FROM daily_count
WHERE (day, account_id) < (:day, :account_id) AND day >= :first_day
ORDER BY day DESC, account_id DESC, measure DESC, step DESC LIMIT :most;

-- name: daily_old
SELECT day, account_id, measure, step FROM daily_count WHERE day < :day ORDER BY day LIMIT :count;

-- name: forget_daily!
DELETE FROM daily_count WHERE day = :day AND account_id = :account_id AND measure = :measure AND step = :step;
