-- min_compatible_version: 1
-- What each request pays for in these tables, made smaller.

-- All locks at once, and first those that submissions and settlements (the user locks) and claims (inflight) take
-- first: with the locks of some of these tables, this could wait for a transaction that waits for them. Nothing is read
-- or rewritten meanwhile.
LOCK TABLE quota_plans IN EXCLUSIVE MODE;
LOCK TABLE inflight, quotas, requests, requests_archive, prompts, results, binary_results IN ACCESS EXCLUSIVE MODE;

-- PostgreSQL reads and prepares the CHECK constraints of a table again for every statement that writes to it: for the
-- five tables that a submission writes to, that was a quarter of its cost. Those that only the SQL functions could
-- break are declared NOT ENFORCED: verification reads them from the catalogue and looks for rows that break them (see
-- rows_as_declared). Enforced are still those that something from outside could break: the size and form of a result,
-- and counters below zero. That an input has messages is checked where its bytes are counted (see input_bytes).
DO $$
DECLARE
    rule record;
    leaf record;
BEGIN
    FOR rule IN
        SELECT c.conrelid::regclass AS name, c.conname, pg_get_constraintdef(c.oid) AS definition
        FROM pg_constraint c
        WHERE c.contype = 'c'
          AND (c.conrelid IN ('requests'::regclass, 'requests_archive'::regclass, 'inflight'::regclass)
               OR c.conrelid = 'quotas'::regclass AND c.conname <> 'quotas_counters_not_negative')
        ORDER BY c.conrelid, c.conname
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', rule.name, rule.conname);
        -- A partition was made with constraints of its own, which remain.
        FOR leaf IN SELECT h.inhrelid::regclass AS name FROM pg_inherits h WHERE h.inhparent = rule.name LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', leaf.name, rule.conname);
        END LOOP;
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT ENFORCED', rule.name, rule.conname, rule.definition);
    END LOOP;
END $$;

-- squawk-ignore ban-drop-constraint
ALTER TABLE prompts DROP CONSTRAINT prompts_input_has_messages;

-- A partition's CHECK on its month lets it be attached without a scan. These months are never attached again.
DO $$
DECLARE
    leaf record;
BEGIN
    FOR leaf IN
        SELECT c.conrelid::regclass AS name, c.conname
        FROM pg_constraint c JOIN pg_inherits h ON h.inhrelid = c.conrelid
        WHERE h.inhparent IN ('prompts'::regclass, 'results'::regclass, 'binary_results'::regclass)
          AND c.contype = 'c' AND (c.conname LIKE '%\_month' OR c.conname = 'prompts_input_has_messages')
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', leaf.name, leaf.conname);
    END LOOP;
END $$;
