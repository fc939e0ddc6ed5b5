-- min_compatible_version: 1
-- Statistics of the columns that 0002 widened: PostgreSQL forgets them when a type changes, and plans badly without. A
-- migration of its own, so that tables are read after the locks of 0002 are gone.
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
