-- An account whose server has said that it was too fast (postroom/pace.py). No row: as fast as it goes.
CREATE TABLE pace (
    account_id INTEGER PRIMARY KEY REFERENCES account (id),
    gap        INTEGER NOT NULL CHECK (gap > 0),               -- between messages
    average    INTEGER NOT NULL CHECK (average > 0),           -- gap at which the server has taken messages, rests included
    since      INTEGER NOT NULL,                               -- beginning of the present stretch
    taken      INTEGER NOT NULL,                              -- messages taken in it
    slowed_at  INTEGER NOT NULL,
    refusals   INTEGER NOT NULL,                              -- in a row
    paid_until INTEGER NOT NULL                                -- nothing is claimed before
);

ALTER TABLE account ADD COLUMN setbacks INTEGER NOT NULL DEFAULT 0;   -- pauses in a row
ALTER TABLE account ADD COLUMN passed_at INTEGER;                      -- when a message last ended a pause
ALTER TABLE job ADD COLUMN drawn INTEGER NOT NULL DEFAULT 0;          -- refusals of the account, others having passed in between
ALTER TABLE job ADD COLUMN drawn_at INTEGER;
