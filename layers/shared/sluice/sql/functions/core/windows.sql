-- Completion windows: within which time a caller needs the answer. A request with one is of the waiting class until it
-- is promoted, so that it is answered in time.

CALL define_type('completion_window', $$name text, length interval, lead interval$$);

-- The only list of them in the database. lead: so long before its end, a request that still waits is promoted.
CREATE OR REPLACE FUNCTION completion_windows() RETURNS SETOF completion_window
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT w.name, w.length, w.length / 4
    FROM (VALUES ('2h', interval '2 hours'), ('8h', interval '8 hours'), ('24h', interval '24 hours'))
        AS w (name, length);
$$;

CREATE OR REPLACE FUNCTION completion_window(p_name text) RETURNS completion_window
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    known completion_window;
BEGIN
    SELECT * INTO known FROM completion_windows() AS w WHERE w.name = p_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no completion window %', p_name;
    END IF;
    RETURN known;
END $$;

-- How a request waits: p_window is its completion window, which ends at p_due_at. A request that is almost due, or has
-- no window, is not of the waiting class.
CREATE OR REPLACE FUNCTION window_waiting(
    p_window text, p_due_at timestamptz, p_at timestamptz, OUT priority smallint, OUT promote_at timestamptz
)
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    priority := 0;
    IF p_window IS NOT NULL THEN
        promote_at := p_due_at - (completion_window(p_window)).lead;
        priority := (promote_at > p_at)::integer;
    END IF;
END $$;

-- What the audit log says of it, where there is a window.
CREATE OR REPLACE FUNCTION window_facts(p_window text, p_due_at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN CASE WHEN p_window IS NULL THEN '{}'
                ELSE jsonb_build_object('window', p_window, 'due_at', p_due_at) END;

-- Whether a request that ended so kept the promise of its window; NULL: there was none, or its client did not want the
-- answer any more.
CREATE OR REPLACE FUNCTION window_kept(p_status text, p_completed_at timestamptz, p_due_at timestamptz) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN p_status <> 'cancelled' AND p_due_at IS NOT NULL
                THEN p_status <> 'expired' AND p_completed_at <= p_due_at END;
