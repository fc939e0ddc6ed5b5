-- CHECK constraints that are declared NOT ENFORCED, as an invariant; see ledger_verify().

-- Every row is as its table declares it. PostgreSQL does not evaluate a CHECK that is NOT ENFORCED; this does, with the
-- expressions in the catalogue. A row that breaks several is reported with the first of them.
CREATE OR REPLACE FUNCTION rows_as_declared(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    declared record;
BEGIN
    FOR declared IN
        SELECT t.source,
               string_agg(format('WHEN NOT (%s) THEN %L', pg_get_expr(c.conbin, c.conrelid), c.conname), ' '
                          ORDER BY c.conname) AS cases
        FROM pg_constraint c
        -- Every table that has such a constraint; the partitions and the archive of requests have the same ones.
        JOIN (VALUES
            ('requests'::regclass, 'SELECT NULL AS period, q.* FROM requests_to_verify($1, $2, $3) AS q'),
            ('inflight', 'SELECT NULL AS period, q.* FROM inflight AS q'),
            ('quotas', 'SELECT NULL::uuid AS request_id, q.quota_period AS period, q.* FROM quotas AS q')
        ) AS t (name, source) ON t.name = c.conrelid
        WHERE c.contype = 'c' AND NOT c.conenforced
        GROUP BY t.source
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT v.user_id::text, v.request_id, v.period::text, b.broken, NULL '
            'FROM (%s) AS v CROSS JOIN LATERAL (SELECT CASE %s END AS broken) AS b '
            'WHERE b.broken IS NOT NULL LIMIT 100', declared.source, declared.cases)
        USING p_full, p_today, p_touched;
    END LOOP;
END $$;
