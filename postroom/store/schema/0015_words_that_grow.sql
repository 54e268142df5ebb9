-- From here on one text for both engines (docs/decisions/0007-one-schema-text.md).

-- What Postroom calls things grows: states of accounts and deliveries, where accounts and keys come from, what attempts end with.
-- The code names each of them; a constraint would need a migration for each new one.

-- only sqlite
-- SQLite changes no constraint by a statement, but allows its text to be changed where nothing that is stored becomes wrong
-- (https://sqlite.org/lang_altertable.html, on changes that need no copy of the table).
PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(sql,
    ' CHECK (source IN (''csv'', ''cli''))', ''),
    ' CHECK (state IN (''active'', ''parked'', ''paused''))', '')
WHERE type = 'table' AND name IN ('account', 'api_key');

UPDATE sqlite_schema SET sql = replace(sql,
    ' CHECK (state = ''pending'' OR state = ''sent'' OR state = ''failed'' OR state = ''cancelled'')', '')
WHERE type = 'table' AND name = 'delivery';

UPDATE sqlite_schema SET sql = replace(sql,
    ' CHECK (outcome = ''sent'' OR outcome = ''deferred'' OR outcome = ''failed'' OR outcome = ''in_doubt'' OR outcome = ''crashed'')', '')
WHERE type = 'table' AND name = 'attempt';

PRAGMA writable_schema = RESET;

-- Each connection that writes makes these itself (store/sqlite/one_statement.sql), so that they change with the code. A change of
-- the schema by a statement also tells all other connections to read it anew.
DROP VIEW acceptance;
DROP VIEW conclusion;
-- end

-- only postgres
ALTER TABLE account DROP CONSTRAINT account_source_check, DROP CONSTRAINT account_state_check;
ALTER TABLE api_key DROP CONSTRAINT api_key_source_check;
ALTER TABLE delivery DROP CONSTRAINT delivery_state_check;
ALTER TABLE attempt DROP CONSTRAINT attempt_outcome_check;
-- end
