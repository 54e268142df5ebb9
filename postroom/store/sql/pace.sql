-- An account's pace.

-- name: read_pace^
SELECT gap, average, since, taken, slowed_at, refusals, paid_until FROM pace WHERE account_id = :account_id;

-- name: write_pace!
INSERT INTO pace (account_id, gap, average, since, taken, slowed_at, refusals, paid_until)
VALUES (:account_id, :gap, :average, :since, :taken, :slowed_at, :refusals, :paid_until)
ON CONFLICT (account_id) DO UPDATE SET gap = excluded.gap, average = excluded.average, since = excluded.since,
    taken = excluded.taken, slowed_at = excluded.slowed_at, refusals = excluded.refusals, paid_until = excluded.paid_until;

-- name: forget_pace!
DELETE FROM pace WHERE account_id = :account_id;
