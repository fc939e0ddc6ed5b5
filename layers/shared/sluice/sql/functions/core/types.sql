-- The rows that functions return are of composite types, each declared beside its function by define_type(). A new
-- field is one more attribute at the end of the type, so the function's signature stays the same.

-- Creates a type, or adds the attributes that it lacks. Callers name the columns that they read, so the previous
-- version of the code keeps working when a type grows.
CREATE OR REPLACE PROCEDURE define_type(p_name text, p_attributes text)
    LANGUAGE plpgsql AS $$
DECLARE
    missing record;
BEGIN
    IF to_regtype(quote_ident(p_name)) IS NULL THEN
        EXECUTE format('CREATE TYPE %I AS (%s)', p_name, p_attributes);
        RETURN;
    END IF;
    EXECUTE format('CREATE TYPE wanted_type AS (%s)', p_attributes);
    FOR missing IN
        SELECT coalesce(w.attname, h.attname) AS name, format_type(w.atttypid, w.atttypmod) AS type,
               w.attname IS NULL AS is_newer, h.attname IS NOT NULL AS differs
        FROM (SELECT * FROM pg_attribute WHERE attrelid = 'wanted_type'::regclass) AS w
        FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(p_name))) AS h
            ON h.attnum = w.attnum
        WHERE (w.attname, w.atttypid) IS DISTINCT FROM (h.attname, h.atttypid)
        ORDER BY w.attnum
    LOOP
        IF missing.is_newer THEN
            -- Types only grow: a newer version was here. migrate() then leaves its functions alone.
            RAISE EXCEPTION 'type % has the newer attribute %', p_name, missing.name USING ERRCODE = 'SL501';
        ELSIF missing.differs THEN
            RAISE EXCEPTION 'type %: attribute % was released and may not change', p_name, missing.name;
        END IF;
        EXECUTE format('ALTER TYPE %I ADD ATTRIBUTE %I %s', p_name, missing.name, missing.type);
    END LOOP;
    DROP TYPE wanted_type;
END $$;
COMMENT ON PROCEDURE define_type(text, text) IS
    'Creates a composite type, or adds attributes at its end. Changing or removing an attribute is an error.';
