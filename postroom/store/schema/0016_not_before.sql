-- The earliest time at which a job may be claimed; NULL: at once. Nothing makes a job due before it, whatever the clock does.
-- The periods of retrying begin then, not at acceptance.
ALTER TABLE job ADD COLUMN not_before BIGINT CHECK (due_at >= not_before);
