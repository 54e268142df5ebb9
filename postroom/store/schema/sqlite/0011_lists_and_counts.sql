-- `postroom list --account` and `--held` read as many rows as they print. Only held jobs pay for the second one.
CREATE INDEX message_account ON message (account_id);
CREATE INDEX job_held ON job (message_id, account_id) WHERE held = 1;

-- How many messages an account has accepted and ended, ever: what is over for long is deleted, and counting rows takes too long.
CREATE TABLE job_count (
    account_id INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('accepted', 'done', 'failed', 'cancelled')),
    jobs       INTEGER NOT NULL,
    PRIMARY KEY (account_id, state)
) WITHOUT ROWID;
INSERT INTO job_count SELECT account_id, 'accepted', count(*) FROM job WHERE account_id IS NOT NULL GROUP BY account_id;
INSERT INTO job_count SELECT account_id, state, count(*) FROM job WHERE account_id IS NOT NULL AND finished_at IS NOT NULL
    GROUP BY account_id, state;

-- What is accepted is counted once a batch (`Transaction.count_accepted`): a trigger took 10 µs a message.
CREATE TRIGGER job_ended AFTER UPDATE OF finished_at ON job
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.account_id IS NOT NULL BEGIN
    INSERT INTO job_count VALUES (NEW.account_id, NEW.state, 1)
    ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + 1;
END;
