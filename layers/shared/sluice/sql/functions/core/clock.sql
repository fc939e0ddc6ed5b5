-- Time. All rules take it from clock_now() and request_id_now(), so that a test can move the clock by replacing them.

CREATE OR REPLACE FUNCTION clock_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

CREATE OR REPLACE FUNCTION request_id_now() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN uuidv7();

CREATE OR REPLACE FUNCTION uuidv7_floor(p_at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM (p_at - timestamptz '1970-01-01 00:00:00+00')) * 1000)::bigint),
                 12, '0') || '70008000000000000000')::uuid;
COMMENT ON FUNCTION uuidv7_floor(timestamptz) IS
    'The smallest UUIDv7 of a millisecond (RFC 9562, 5.7). Time filters on a UUIDv7 key compare with it, so that '
    'partitions are pruned.';

-- The periods of quotas, shortest first: the only list of them in the database.
CREATE OR REPLACE FUNCTION quota_periods() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY['minute', 'daily', 'monthly'];

CREATE OR REPLACE FUNCTION period_start(p_quota_period text, p_at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN date_trunc(CASE p_quota_period WHEN 'minute' THEN 'minute' WHEN 'daily' THEN 'day' ELSE 'month' END,
                      p_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
COMMENT ON FUNCTION period_start(text, timestamptz) IS
    'Start of the calendar-aligned UTC period that contains the given time.';

CREATE OR REPLACE FUNCTION period_end(p_quota_period text, p_at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ((period_start(p_quota_period, p_at) AT TIME ZONE 'UTC')
            + CASE p_quota_period WHEN 'minute' THEN interval '1 minute' WHEN 'daily' THEN interval '1 day'
                   ELSE interval '1 month' END) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION period_end(text, timestamptz) IS 'Start of the next period: the first instant after this one.';

CREATE OR REPLACE FUNCTION utc_today() RETURNS date
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN (clock_now() AT TIME ZONE 'UTC')::date;
