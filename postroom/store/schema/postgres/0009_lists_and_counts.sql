-- `postroom list --account` and `--held` read as many rows as they print. Only held jobs pay for the second one.
CREATE INDEX message_account ON message (account_id, id);
CREATE INDEX job_held ON job (message_id, account_id) WHERE held = 1;

-- How many messages an account has accepted and ended, ever: what is over for long is deleted, and counting rows takes too long.
-- Rows are added, not changed, so that no commit waits for another one; a worker folds them to one a state each minute.
CREATE TABLE job_count (
    account_id BIGINT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('accepted', 'done', 'failed', 'cancelled')),
    jobs       BIGINT NOT NULL
);
INSERT INTO job_count SELECT account_id, 'accepted', count(*) FROM job WHERE account_id IS NOT NULL GROUP BY account_id;
INSERT INTO job_count SELECT account_id, state, count(*) FROM job WHERE account_id IS NOT NULL AND finished_at IS NOT NULL
    GROUP BY account_id, state;

-- What is accepted is counted once a batch (`Transaction.count_accepted`), what ends once a statement, which may be about many jobs.
-- A job that is over is not changed any more: one that is over in an update has ended by it.
CREATE FUNCTION count_ended_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count
    SELECT account_id, state, count(*) FROM changed
    WHERE finished_at IS NOT NULL AND account_id IS NOT NULL GROUP BY account_id, state;
    RETURN NULL;
END
$$;
CREATE TRIGGER job_ended AFTER UPDATE ON job REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_ended_jobs();
