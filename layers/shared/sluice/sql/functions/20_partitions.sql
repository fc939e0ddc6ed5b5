-- Monthly partitions: made ahead of time, archived whole.

-- A partition is made apart and attached: ATTACH lets inserts into its siblings go on, CREATE ... PARTITION OF does
-- not. It carries its month as a CHECK from birth, so attaching it anywhere, now or to the archive, scans nothing.
CREATE OR REPLACE FUNCTION partition_create(parent text, key_column text, month date) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    child text := format('%s_y%sm%s', parent, to_char(month, 'YYYY'), to_char(month, 'MM'));
    low   uuid := uuidv7_floor(month::timestamp AT TIME ZONE 'UTC');
    high  uuid := uuidv7_floor((month + interval '1 month') AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass(quote_ident(child)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%I >= %L AND %I < %L)',
                   child, child || '_month', key_column, low, key_column, high);
    IF parent = 'requests' THEN
        -- Two updates a row: room on the page keeps them HOT. The other tables are never updated.
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 80)', child);
    END IF;
    IF parent = 'audit_log' THEN
        -- Row triggers come with the parent's; those of statements do not.
        EXECUTE format('CREATE TRIGGER audit_never_truncated BEFORE TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()', child);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, low, high);
    RETURN child;
END $$;
COMMENT ON FUNCTION partition_create(text, text, date) IS
    'Makes the partition of the month that starts on a date; returns its name, or NULL where it was there.';

CREATE OR REPLACE FUNCTION partitions_ensure(months_ahead integer DEFAULT 3) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET client_min_messages = warning AS $$
DECLARE
    parent record;
    made   text;
    first  date := date_trunc('month', clock_now() AT TIME ZONE 'UTC');
BEGIN
    -- One maker at a time: two schedules that overlap would both find the month missing.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.partitions'));
    FOR parent IN SELECT * FROM (VALUES
        ('requests', 'request_id'), ('prompts', 'request_id'), ('results', 'result_id'),
        ('binary_results', 'result_id'), ('audit_log', 'audit_id')) AS p (name, key_column)
    LOOP
        FOR ahead IN 0..months_ahead LOOP
            made := partition_create(parent.name, parent.key_column, (first + make_interval(months => ahead))::date);
            IF made IS NOT NULL THEN
                RETURN NEXT made;
            END IF;
        END LOOP;
        -- Autovacuum analyses partitions but never their parent, whose statistics plans over many months need.
        EXECUTE format('ANALYZE %I', parent.name);
    END LOOP;
END $$;
COMMENT ON FUNCTION partitions_ensure(integer) IS
    'Makes this month''s and the next months'' partitions where they are missing; returns the names of the new ones.';

CREATE OR REPLACE FUNCTION archive_months(older_than interval) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
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
        CONTINUE WHEN (child.month + interval '1 month') AT TIME ZONE 'UTC' > clock_now() - older_than;
        -- What may be about to queue one of its requests again is waited for, and kept from it.
        LOCK TABLE ONLY requests IN ACCESS EXCLUSIVE MODE;
        -- A month with an unfinished request stays: its settlement must find the row. So do those after it: pages of a
        -- user's history go through requests first, as what is in the archive is older.
        EXIT WHEN EXISTS (SELECT FROM inflight i WHERE i.request_id >= low AND i.request_id < high);
        EXECUTE format('ALTER TABLE requests DETACH PARTITION %I', child.name);
        EXECUTE format('ALTER TABLE requests_archive ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       child.name, low, high);
        RETURN NEXT child.name;
    END LOOP;
END $$;
COMMENT ON FUNCTION archive_months(interval) IS
    'Moves months of requests that ended longer ago than older_than to requests_archive: a change of the catalogue, '
    'whatever their size. Gives up after 2 s of waiting for a lock; the next run tries again.';
