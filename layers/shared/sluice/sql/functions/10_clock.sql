-- The two sources of time. Every rule asks these, so that a test can move the clock by replacing them.

CREATE OR REPLACE FUNCTION clock_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

CREATE OR REPLACE FUNCTION request_id_now() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN uuidv7();

CREATE OR REPLACE FUNCTION period_start(quota_period text, at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN date_trunc(CASE quota_period WHEN 'minute' THEN 'minute' WHEN 'daily' THEN 'day' ELSE 'month' END,
                      at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
COMMENT ON FUNCTION period_start(text, timestamptz) IS 'Start of the calendar-aligned UTC period that contains a time.';

CREATE OR REPLACE FUNCTION period_end(quota_period text, at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ((period_start(quota_period, at) AT TIME ZONE 'UTC')
            + CASE quota_period WHEN 'minute' THEN interval '1 minute' WHEN 'daily' THEN interval '1 day'
                   ELSE interval '1 month' END) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION period_end(text, timestamptz) IS 'Start of the next period: the first instant that is outside.';
