-- Monthly partitions: made ahead of time and archived as a whole. The entry points partitions_ensure and archive_months
-- change the schema, so they run with the rights of its owner.

-- A partition is made as a separate table and then attached: ATTACH lets inserts into the other partitions go on,
-- CREATE ... PARTITION OF does not. The table has a CHECK on its month from the start, so attaching it needs no scan,
-- now or later to the archive.
CREATE OR REPLACE FUNCTION partition_create(p_parent text, p_key_column text, p_month date) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    child text := format('%s_y%sm%s', p_parent, to_char(p_month, 'YYYY'), to_char(p_month, 'MM'));
    low   uuid := uuidv7_floor(p_month::timestamp AT TIME ZONE 'UTC');
    high  uuid := uuidv7_floor((p_month + interval '1 month') AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass(quote_ident(child)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, p_parent);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%I >= %L AND %I < %L)',
                   child, child || '_month', p_key_column, low, p_key_column, high);
    IF p_parent = 'requests' THEN
        -- Each row is updated twice: free space on the page keeps these updates HOT. The other tables are never
        -- updated.
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 80)', child);
    END IF;
    IF p_parent = 'audit_log' THEN
        -- ATTACH copies the parent's row triggers, but not its statement triggers.
        EXECUTE format('CREATE TRIGGER audit_never_truncated BEFORE TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()', child);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', p_parent, child, low, high);
    IF p_parent IN ('prompts', 'results', 'binary_results') THEN
        -- It has done what it was for: these months are never attached again. Each insert would evaluate it, together
        -- with the virtual columns.
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', child, child || '_month');
        -- For the finders; access through the parent needs no right on the partition.
        EXECUTE format('GRANT SELECT ON %I TO sluice_definer', child);
    END IF;
    RETURN child;
END $$;
COMMENT ON FUNCTION partition_create(text, text, date) IS
    'Makes the partition of the month that starts on p_month; returns its name, or NULL if it exists already.';

-- Finders: look-ups by id in tables that have a partition for every month that there ever was. Through the table
-- itself, a look-up is either planned for its id each time, which takes several times as long as finding the row, or
-- has one cached plan, which locks every partition. A finder has a statement of its own for each partition, whose plan
-- is cached when it is first used. Row-level policies apply where the row of requests was read, which names the id.
CREATE OR REPLACE FUNCTION finders_ensure() RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    finder   record;
    branches text;
    body     text;
BEGIN
    FOR finder IN SELECT * FROM (VALUES
        ('question_find', 'prompts', 'request_id', 'OUT input jsonb, OUT parameters jsonb, OUT handling jsonb',
         'SELECT q.input, q.parameters, q.handling INTO input, parameters, handling'),
        ('asked_find', 'prompts', 'request_id',
         'OUT input jsonb, OUT parameters jsonb, OUT surface jsonb, OUT erased_at timestamptz',
         'SELECT q.input, q.parameters, q.surface, q.erased_at INTO input, parameters, surface, erased_at'),
        ('extras_find', 'prompts', 'request_id', 'OUT metadata jsonb, OUT handling jsonb',
         'SELECT q.metadata, q.handling INTO metadata, handling'),
        -- A page of whole prompts could be larger than a Lambda response may be.
        ('prompt_beginning', 'prompts', 'request_id', 'OUT prompt text', 'SELECT left(q.prompt, 1000) INTO prompt'),
        ('result_find', 'results', 'result_id', 'OUT output jsonb', 'SELECT q.output INTO output'),
        ('content_find', 'binary_results', 'result_id', 'OUT content bytea, OUT object_id uuid',
         'SELECT q.content, q.object_id INTO content, object_id')
    ) AS f (name, source, key, out, lookup)
    LOOP
        -- Newest first: what is looked up is mostly recent.
        SELECT string_agg(format(
                   E'    IF p_id >= %L AND p_id < %L THEN\n        %s FROM %I q WHERE q.%I = p_id;\n        RETURN;\n'
                   '    END IF;\n', b.bounds[1], b.bounds[2], finder.lookup, c.relname, finder.key),
                   '' ORDER BY b.bounds[1] DESC)
        INTO branches
        FROM pg_inherits h
        JOIN pg_class c ON c.oid = h.inhrelid
        CROSS JOIN LATERAL regexp_match(
            pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.*)''\) TO \(''(.*)''\)') AS b (bounds)
        WHERE h.inhparent = finder.source::regclass;
        -- At the end, a month that was made without this function.
        body := format(E'\nBEGIN\n%s    %s FROM %I q WHERE q.%I = p_id;\nEND ',
                       branches, finder.lookup, finder.source, finder.key);
        CONTINUE WHEN EXISTS (SELECT FROM pg_proc p
                              WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname = finder.name
                                AND p.prosrc = body);
        EXECUTE format('CREATE OR REPLACE FUNCTION %I(p_id uuid, %s) LANGUAGE plpgsql STABLE AS %L',
                       finder.name, finder.out, body);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION partitions_ensure(p_months_ahead integer DEFAULT 3) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET client_min_messages = warning AS $$
DECLARE
    parent record;
    made   text;
    first  date := date_trunc('month', clock_now() AT TIME ZONE 'UTC');
BEGIN
    -- One at a time: two runs that overlap would both find the same partition missing.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.partitions'));
    FOR parent IN SELECT * FROM (VALUES
        ('requests', 'request_id'), ('prompts', 'request_id'), ('results', 'result_id'),
        ('binary_results', 'result_id'), ('audit_log', 'audit_id')) AS p (name, key_column)
    LOOP
        FOR ahead IN 0..p_months_ahead LOOP
            made := partition_create(parent.name, parent.key_column, (first + make_interval(months => ahead))::date);
            IF made IS NOT NULL THEN
                RETURN NEXT made;
            END IF;
        END LOOP;
        -- Autovacuum analyses partitions but never their parent, and plans over many months need the parent's
        -- statistics.
        EXECUTE format('ANALYZE %I', parent.name);
    END LOOP;
    PERFORM finders_ensure();
END $$;
COMMENT ON FUNCTION partitions_ensure(integer) IS
    'Makes the missing partitions of this month and of the p_months_ahead months after it; returns the names of the '
    'new ones.';

CREATE OR REPLACE FUNCTION archive_months(p_older_than_days integer) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $$
DECLARE
    child record;
    low   uuid;
    high  uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.partitions'));
    FOR child IN
        SELECT c.relname AS name, to_date(right(c.relname, 7), 'YYYY"m"MM') AS month
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        WHERE h.inhparent = 'requests'::regclass
        ORDER BY 2
    LOOP
        low := uuidv7_floor(child.month::timestamp AT TIME ZONE 'UTC');
        high := uuidv7_floor((child.month + interval '1 month') AT TIME ZONE 'UTC');
        CONTINUE WHEN (child.month + interval '1 month') AT TIME ZONE 'UTC'
                      > clock_now() - make_interval(days => p_older_than_days);
        -- Wait for a redrive that may be about to queue a request of this month again, and keep out later ones.
        LOCK TABLE ONLY requests IN ACCESS EXCLUSIVE MODE;
        -- A month with an unfinished request stays, because the settlement must find the row in requests. The months
        -- after it stay too: a page of a user's history is read from requests first, which is right only as long as all
        -- requests in the archive are older.
        EXIT WHEN EXISTS (SELECT FROM inflight i WHERE i.request_id >= low AND i.request_id < high);
        EXECUTE format('ALTER TABLE requests DETACH PARTITION %I', child.name);
        EXECUTE format('ALTER TABLE requests_archive ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       child.name, low, high);
        RETURN NEXT child.name;
    END LOOP;
END $$;
COMMENT ON FUNCTION archive_months(integer) IS
    'Moves the months that ended more than p_older_than_days days ago from requests to requests_archive. This changes '
    'only the catalogue, no matter how large the months are. Gives up after waiting 2 s for a lock; the next run tries '
    'again.';
