-- min_compatible_version: 1
-- Ids of users, models and price lists as long as identity providers and model registries make them: 255 characters
-- (OpenID Connect Core, 2). And what the cleaning of idempotency keys reads.

-- A wider varchar changes the catalogue only: no row is rewritten and no index built, with exceptions:
--   - Indexes of partitions are built again when the type changes through their parent. So the partitions are
--     detached, changed each by itself and attached again, which needs no scan (see partition_create).
--   - An index with a condition is built again. For audit_log, the next migration does that, with weaker locks. The
--     two of inflight are as small as what is unfinished.
-- And PostgreSQL refuses to change a column that a view or the parsed body of a function names. So the views are
-- dropped and made again, with the rights and triggers that they had (the owner of the database decides who may use the
-- view submissions), and the functions get an empty body for the meantime, which keeps their rights. All is one
-- transaction: nobody else sees the meantime.
DO $$
DECLARE
    views constant oid[] := ARRAY(
        SELECT v.oid FROM pg_class v
        WHERE v.relnamespace = 'sluice'::regnamespace AND v.relkind = 'v'
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = v.oid AND d.deptype = 'e'));  -- an extension's
    steps text[];
    step  text;
BEGIN
    PERFORM set_config('check_function_bodies', 'off', true);
    WITH function AS (
        SELECT pg_get_functiondef(p.oid) AS definition, pg_get_function_sqlbody(p.oid) AS body
        FROM pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.prosqlbody IS NOT NULL
          AND EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass)
    ), wide AS (
        SELECT c.oid, format('ALTER TABLE %I ', c.relname)
               || string_agg(format('ALTER COLUMN %I TYPE varchar(255)', a.attname), ', ') AS change
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p')
          AND a.attname IN ('user_id', 'model_id', 'price_list')
          AND format_type(a.atttypid, a.atttypmod) = 'character varying(50)'
        GROUP BY c.oid, c.relname
    ), part AS (
        SELECT c.oid, format('ALTER TABLE %s', h.inhparent::regclass) AS alter_parent, c.relname,
               pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN wide w ON w.oid = c.oid
    )
    -- An id is higher than those of what it was made from.
    SELECT array_agg(s.step ORDER BY s.n, s.id) INTO steps FROM (
        SELECT 1 AS n, 0 AS id, replace(f.definition, f.body, $q$AS ''$q$) AS step FROM function f
        UNION ALL SELECT 2, -v.oid::bigint, format('DROP VIEW %I', v.relname) FROM pg_class v WHERE v.oid = ANY (views)
        UNION ALL SELECT 3, 0, 'DROP INDEX audit_log_quota_changes'
        UNION ALL SELECT 4, p.oid::bigint, format('%s DETACH PARTITION %I', p.alter_parent, p.relname) FROM part p
        UNION ALL SELECT 5, w.oid::bigint, w.change FROM wide w
        UNION ALL SELECT 6, p.oid::bigint, format('%s ATTACH PARTITION %I %s', p.alter_parent, p.relname, p.bound)
            FROM part p
        UNION ALL SELECT 7, v.oid::bigint,
            format('CREATE VIEW %I %s AS %s', v.relname, 'WITH (' || array_to_string(v.reloptions, ', ') || ')',
                   pg_get_viewdef(v.oid))
            FROM pg_class v WHERE v.oid = ANY (views)
        UNION ALL SELECT 8, 0, format('COMMENT ON VIEW %I IS %L', v.relname, obj_description(v.oid, 'pg_class'))
            FROM pg_class v WHERE v.oid = ANY (views)
        UNION ALL SELECT 9, 0, pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = ANY (views)
        UNION ALL SELECT 10, 0,
            format('GRANT %s ON %I TO %s%s', a.privilege_type, v.relname,
                   CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                   CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
            FROM pg_class v CROSS JOIN LATERAL aclexplode(v.relacl) AS a WHERE v.oid = ANY (views)
        UNION ALL SELECT 11, 0, f.definition FROM function f
    ) AS s;
    FOREACH step IN ARRAY steps LOOP
        EXECUTE step;
    END LOOP;
END $$;

-- A table of a day's keys: it is short, and submissions wait for its index for a moment only. (The migration is one
-- transaction, in which CONCURRENTLY is not possible.)
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
COMMENT ON COLUMN idempotency_keys.expires_at IS
    'When the cleaning task looks at it next: never later than the key counts. Whether it counts follows from its '
    'request (idempotency_counts).';
