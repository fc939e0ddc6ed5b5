-- The view submissions: other writers (a stream processor, another service) insert (user_id, prompt, model_id) here.
-- The request is accounted for like any other; the recovery task sends its message. These writers are trusted. Only the
-- submit function knows the deployment's limits: here, lifetime and attempts are the template's defaults, and the
-- length of a prompt is limited only by the quota. The database makes the request's id. An id that the writer gives
-- serves as idempotency key, because such writers deliver at least once.

-- Both tables, and not the view requests_all: that one asks for the writer's own rights on the tables.
CREATE OR REPLACE VIEW submissions AS
    SELECT r.request_id, r.user_id, p.prompt, r.model_id, r.status, p.parameters, p.metadata, r.created_at,
           r.error_code, r.error_message, a.content AS result, r.finish_reason, r.completion_window
    FROM (SELECT * FROM requests UNION ALL SELECT * FROM requests_archive) AS r
    JOIN prompts p ON p.request_id = r.request_id
    LEFT JOIN results a ON a.result_id = r.result_id;

-- The same rules as for POST /generate (sluice.domain.parameters), as far as they protect the database and the models.
CREATE OR REPLACE FUNCTION parameters_are_valid(p_parameters jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_typeof(p_parameters) = 'object' AND NOT EXISTS (
        SELECT FROM jsonb_each(CASE jsonb_typeof(p_parameters) WHEN 'object' THEN p_parameters ELSE '{}' END) AS p
        WHERE NOT coalesce(CASE p.key
            WHEN 'max_tokens' THEN p.value::text ~ '^[1-9][0-9]{0,8}$'
            WHEN 'temperature' THEN jsonb_typeof(p.value) = 'number' AND p.value >= '0' AND p.value <= '2'
            WHEN 'top_p' THEN jsonb_typeof(p.value) = 'number' AND p.value > '0' AND p.value <= '1'
            WHEN 'seed' THEN p.value::text ~ '^[0-9]{1,10}$' AND p.value < '2147483648'
            WHEN 'stop' THEN jsonb_typeof(p.value) = 'array'
        END, false));
$$;

CREATE OR REPLACE FUNCTION submission_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    plan quota_plans;
    made decision;
BEGIN
    NEW.parameters := coalesce(NEW.parameters, '{}');
    NEW.completion_window := nullif(NEW.completion_window, 'soonest');
    IF NEW.completion_window NOT IN (SELECT w.name FROM completion_windows() AS w) THEN
        RAISE EXCEPTION 'submission refused: invalid_input' USING ERRCODE = 'SL422', CONSTRAINT = 'invalid_input',
            DETAIL = 'completion_window is soonest, 2h, 8h or 24h';
    END IF;
    IF coalesce(NEW.prompt, '') = '' OR NOT parameters_are_valid(NEW.parameters) THEN
        RAISE EXCEPTION 'submission refused: invalid_input' USING ERRCODE = 'SL422', CONSTRAINT = 'invalid_input',
            DETAIL = 'the prompt must not be empty; parameters is an object of max_tokens (at least 1), '
                     'temperature (0 to 2), top_p (above 0, up to 1), stop (a list) and seed (below 2147483648)';
    END IF;
    plan := user_lock(NEW.user_id);
    -- After the lock: the user may have been deactivated while this waited.
    IF NOT EXISTS (SELECT FROM users u WHERE u.user_id = NEW.user_id AND u.is_active) THEN
        RAISE EXCEPTION 'no active user %', NEW.user_id USING ERRCODE = 'SL403', CONSTRAINT = 'user_inactive';
    END IF;
    made := request_admit(plan, NULL, NULL, NULL, 'submissions', jsonb_build_object(
        'input', jsonb_build_object('messages', jsonb_build_array(jsonb_build_object(
            'role', 'user', 'content', jsonb_build_array(jsonb_build_object('type', 'text', 'text', NEW.prompt))))),
        'model', NEW.model_id, 'parameters', NEW.parameters, 'metadata', NEW.metadata,
        'idempotency_key', 'submission ' || NEW.request_id,
        'body_hash', encode(sha256(convert_to(jsonb_build_array(
            NEW.prompt, NEW.model_id, NEW.parameters, NEW.metadata)::text
            || coalesce(NEW.completion_window, ''), 'UTF8')), 'hex'),
        'longest_seconds', 86400, 'max_attempts', 20)
        || CASE WHEN NEW.completion_window IS NULL THEN '{}'
                ELSE jsonb_build_object('window', NEW.completion_window) END, false);
    IF made.outcome NOT IN ('accepted', 'replayed') THEN
        RAISE EXCEPTION 'submission refused: %', coalesce(made.detail->>'code', made.outcome)
            USING ERRCODE = CASE WHEN made.outcome IN ('quota_exceeded', 'budget_exceeded', 'unfinished_exceeded')
                                 THEN 'SL429' ELSE 'SL422' END,
                  CONSTRAINT = coalesce(made.detail->>'code', made.outcome), DETAIL = coalesce(made.detail, '{}')::text;
    END IF;
    SELECT s.* INTO NEW FROM submissions s WHERE s.request_id = made.request_id;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER submission_insert INSTEAD OF INSERT ON submissions
    FOR EACH ROW EXECUTE FUNCTION submission_insert();
