-- SQLite makes a table of the values of an IN with more than two, each time that a CHECK is looked at. That took a third of
-- the time of a message's end and of its acceptance. These are the same conditions, and nothing that is stored changes
-- (https://sqlite.org/lang_altertable.html, on changes that need no copy of the table).
PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(sql,
    'state IN (''queued'', ''claimed'', ''done'', ''failed'', ''cancelled'')',
    'state = ''queued'' OR state = ''claimed'' OR state = ''done'' OR state = ''failed'' OR state = ''cancelled'''),
    'state IN (''done'', ''failed'', ''cancelled'')',
    'state = ''done'' OR state = ''failed'' OR state = ''cancelled''')
WHERE type = 'table' AND name = 'job';

UPDATE sqlite_schema SET sql = replace(sql,
    'state IN (''pending'', ''sent'', ''failed'', ''cancelled'')',
    'state = ''pending'' OR state = ''sent'' OR state = ''failed'' OR state = ''cancelled''')
WHERE type = 'table' AND name = 'delivery';

UPDATE sqlite_schema SET sql = replace(sql,
    'outcome IN (''sent'', ''deferred'', ''failed'', ''in_doubt'', ''crashed'')',
    'outcome = ''sent'' OR outcome = ''deferred'' OR outcome = ''failed'' OR outcome = ''in_doubt'' OR outcome = ''crashed''')
WHERE type = 'table' AND name = 'attempt';

UPDATE sqlite_schema SET sql = replace(sql,
    'in_doubt IN (''retry'', ''hold'', ''fail'')',
    'in_doubt = ''retry'' OR in_doubt = ''hold'' OR in_doubt = ''fail''')
WHERE type = 'table' AND name = 'message';

UPDATE sqlite_schema SET sql = replace(sql,
    'state IN (''accepted'', ''done'', ''failed'', ''cancelled'')',
    'state = ''accepted'' OR state = ''done'' OR state = ''failed'' OR state = ''cancelled''')
WHERE type = 'table' AND name = 'job_count';

PRAGMA writable_schema = RESET;

-- Any other change of the schema tells all other connections to read it anew.
DROP TRIGGER job_ended;
CREATE TRIGGER job_ended AFTER UPDATE OF finished_at ON job
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.account_id IS NOT NULL BEGIN
    INSERT INTO job_count VALUES (NEW.account_id, NEW.state, 1)
    ON CONFLICT (account_id, state) DO UPDATE SET jobs = jobs + 1;
END;
