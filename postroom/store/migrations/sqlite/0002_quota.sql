-- Recipients that an account's claims have used, in slots of ten minutes: the rolling 24 hours of its daily limit.
CREATE TABLE account_usage (
    account_id INTEGER NOT NULL REFERENCES account (id),
    slot       INTEGER NOT NULL,                        -- ten-minute periods since the epoch
    recipients INTEGER NOT NULL CHECK (recipients >= 0),
    PRIMARY KEY (account_id, slot)
) WITHOUT ROWID;

-- The slot in which the present claim has reserved its recipients, and how many; NULL: its account has no limit.
ALTER TABLE job ADD COLUMN reserved_slot INTEGER;
ALTER TABLE job ADD COLUMN reserved INTEGER CHECK ((reserved IS NULL) = (reserved_slot IS NULL));
