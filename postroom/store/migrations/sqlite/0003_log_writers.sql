-- Whose file a batch of log lines is on its way into; on a server's database there may be several.
ALTER TABLE log_batch ADD COLUMN writer TEXT NOT NULL DEFAULT '';
