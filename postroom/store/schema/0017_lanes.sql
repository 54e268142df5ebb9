-- One queue, several kinds of job. A lane is what is limited together: of deliveries, the account.
-- A process of an earlier version that still runs finds no `job.account_id`: it can accept nothing and claim nothing.

DROP TRIGGER job_ended
-- only postgres
    ON job
-- end
;
DROP INDEX job_due;
ALTER TABLE job RENAME COLUMN account_id TO lane;

-- only sqlite
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'lane  INTEGER REFERENCES account (id)', 'lane        INTEGER NOT NULL')
WHERE type = 'table' AND name = 'job';
PRAGMA writable_schema = RESET;

CREATE INDEX job_due ON job (lane, due_at) WHERE state = 'queued' AND held = 0 AND kind = 'delivery';

-- What an account's deliveries came to, counted as before.
CREATE TRIGGER job_ended AFTER UPDATE OF finished_at ON job
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.kind = 'delivery' BEGIN
    INSERT INTO job_count VALUES (NEW.lane, NEW.state, 1)
    ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + 1;
END;
-- end

-- only postgres
ALTER TABLE job ALTER COLUMN lane SET NOT NULL;

CREATE INDEX job_due ON job (lane, due_at, id) WHERE state = 'queued' AND held = 0 AND kind = 'delivery';

CREATE OR REPLACE FUNCTION count_ended_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count
    SELECT lane, state, count(*) FROM changed
    WHERE finished_at IS NOT NULL AND kind = 'delivery' GROUP BY lane, state;
    RETURN NULL;
END
$$;
CREATE TRIGGER job_ended AFTER UPDATE ON job REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_ended_jobs();
-- end

-- The other kinds pay for an index of their own, and deliveries for none more.
CREATE INDEX job_due_other ON job (kind, lane, due_at) WHERE state = 'queued' AND held = 0 AND kind <> 'delivery';

-- The installation's own housekeeping is one job, whichever worker does it.
CREATE UNIQUE INDEX job_retention ON job (kind) WHERE kind = 'retention';
