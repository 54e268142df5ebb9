-- One row for each commit, written in it: whoever lost the answer looks for it. The number of a transaction does not tell
-- alone, for after a crash the server may give it to another one.
CREATE TABLE commit_mark (
    mark BIGINT PRIMARY KEY,                                  -- random, chosen by whoever commits
    at   TIMESTAMPTZ NOT NULL DEFAULT now()                   -- by the server's clock
);
ALTER TABLE commit_mark SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
                             autovacuum_vacuum_cost_delay = 0);
