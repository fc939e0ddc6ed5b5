-- min_compatible_version: 1
-- What the widening of the identifiers left to do once its locks are gone.

-- PostgreSQL forgets the statistics of a column whose type changes, and plans badly without.
DO $$
DECLARE
    step text;
BEGIN
    FOR step IN
        SELECT format('ANALYZE %I (%s)', c.relname, string_agg(quote_ident(a.attname), ', '))
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attname IN ('user_id', 'model_id', 'price_list')
        GROUP BY c.oid, c.relname ORDER BY c.oid
    LOOP
        EXECUTE step;
    END LOOP;
END $$;

-- audit_log_quota_changes, as it was. Month by month: only this month's is written to, so only while its index is built
-- do writers wait, for seconds in ten million rows. It comes last, followed by the parent, which is quick.
DO $$
DECLARE
    child record;
    steps text[] := '{}';
    step  text;
BEGIN
    FOR child IN
        SELECT c.relname AS name, left(c.relname, 40) || '_quota_changes' AS index
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        WHERE h.inhparent = 'audit_log'::regclass
        ORDER BY c.relname = to_char(now() AT TIME ZONE 'UTC', '"audit_log_y"YYYY"m"MM'), c.relname
    LOOP
        EXECUTE format('CREATE INDEX %I ON %I (user_id, audit_id) WHERE action = %L',
                       child.index, child.name, 'quota.changed');
        steps := steps || format('ALTER INDEX audit_log_quota_changes ATTACH PARTITION %I', child.index);
    END LOOP;
    CREATE INDEX audit_log_quota_changes ON ONLY audit_log (user_id, audit_id) WHERE action = 'quota.changed';
    FOREACH step IN ARRAY steps LOOP
        EXECUTE step;
    END LOOP;
END $$;
