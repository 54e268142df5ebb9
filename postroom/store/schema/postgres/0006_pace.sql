-- An account whose server has said that it was too fast (postroom/pace.py). No row: as fast as it goes.
CREATE TABLE pace (
    account_id BIGINT PRIMARY KEY REFERENCES account (id),
    gap        BIGINT NOT NULL CHECK (gap > 0),               -- between messages
    average    BIGINT NOT NULL CHECK (average > 0),           -- gap at which the server has taken messages, rests included
    since      BIGINT NOT NULL,                               -- beginning of the present stretch
    taken      INTEGER NOT NULL,                              -- messages taken in it
    slowed_at  BIGINT NOT NULL,
    refusals   INTEGER NOT NULL,                              -- in a row
    paid_until BIGINT NOT NULL                                -- nothing is claimed before
);
ALTER TABLE pace SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

ALTER TABLE account ADD COLUMN setbacks INTEGER NOT NULL DEFAULT 0;   -- pauses in a row
ALTER TABLE account ADD COLUMN passed_at BIGINT;                      -- when a message last ended a pause
ALTER TABLE job ADD COLUMN drawn INTEGER NOT NULL DEFAULT 0;          -- refusals of the account, others having passed in between
ALTER TABLE job ADD COLUMN drawn_at BIGINT;
