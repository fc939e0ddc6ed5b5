-- min_compatible_version: 1
-- Ids of users, models and price lists as long as identity providers and model registries make them: 255 characters
-- (OpenID Connect Core, 2). And what the cleaning of idempotency keys reads.

-- A wider varchar changes the catalogue only: no row is rewritten, no index is built, no constraint is checked again.
-- PostgreSQL refuses to change a column that a view shows, so the views are dropped and made again, with the rights and
-- triggers that they had: the owner of the database decides who may use the view submissions. All is one transaction,
-- so nobody sees the schema without them.
DO $$
DECLARE
    names   constant text[] := ARRAY['requests_all', 'price_registry', 'model_registry', 'submissions'];
    again   text[] := '{}';
    changes record;
    step    text;
BEGIN
    SELECT coalesce(array_agg(s.sql ORDER BY s.oid, s.n), '{}') INTO again FROM (
        SELECT v.oid, 1 AS n, format('CREATE VIEW %I %s AS %s', v.relname,
                                     'WITH (' || array_to_string(v.reloptions, ', ') || ')',
                                     pg_get_viewdef(v.oid)) AS sql
        FROM pg_class v WHERE v.oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(names) AS name))
        UNION ALL
        SELECT v.oid, 2, format('COMMENT ON VIEW %I IS %L', v.relname, obj_description(v.oid, 'pg_class'))
        FROM pg_class v WHERE v.oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(names) AS name))
        UNION ALL
        SELECT t.tgrelid, 3, pg_get_triggerdef(t.oid)
        FROM pg_trigger t WHERE t.tgrelid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(names) AS name))
        UNION ALL
        SELECT v.oid, 4, format('GRANT %s ON %I TO %s%s', a.privilege_type, v.relname,
                                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
        FROM pg_class v CROSS JOIN LATERAL aclexplode(v.relacl) AS a
        WHERE v.oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(names) AS name))
    ) AS s;
    FOR step IN SELECT format('DROP VIEW %I', v.relname) FROM pg_class v
                WHERE v.oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(names) AS name)) ORDER BY v.oid DESC
    LOOP
        EXECUTE step;
    END LOOP;
    FOR changes IN
        SELECT format('ALTER TABLE %I ', c.relname)
               || string_agg(format('ALTER COLUMN %I TYPE varchar(255)', a.attname), ', ') AS sql
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attname IN ('user_id', 'model_id', 'price_list')
          AND format_type(a.atttypid, a.atttypmod) = 'character varying(50)'
        GROUP BY c.oid, c.relname ORDER BY c.oid
    LOOP
        EXECUTE changes.sql;
    END LOOP;
    FOREACH step IN ARRAY again LOOP
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
