-- Quotes: what a request would use and cost, whether it would be accepted, and when it would be answered. Nothing is
-- accepted, and the checks are those of request_admit itself.

-- What a submission that could be accepted would be. It is computed in the middle of request_admit.
CREATE OR REPLACE FUNCTION quote_make(
    plan quota_plans, m models, p_model_ids text[], p_reserved integer, p_max_tokens integer, p_repairs integer,
    p_not_before timestamptz, p_look cache_look_up, p_window text
)
    RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    day         date := utc_today();
    list        text := window_list(billing_list(plan.user_id, day), p_window, day);
    is_hit      boolean := coalesce(p_look.said = 'hit', false);
    completions integer := CASE WHEN is_hit THEN 0 ELSE p_max_tokens * (1 + p_repairs) END;
    forecast    answer_forecast;
    wait        record;
BEGIN
    forecast := answer_forecast(plan.user_id, m.model_id, prompt_most(m, p_reserved, p_max_tokens, p_repairs),
                                p_max_tokens);
    SELECT * INTO wait FROM quote_wait(plan, p_look.leader_id IS NOT NULL, p_not_before, p_window);
    RETURN jsonb_build_object(
        'model', m.model_id, 'models', p_model_ids, 'price_list', list, 'currency', list_currency(list),
        'bound', jsonb_build_object(
            'prompt_tokens', p_reserved - completions, 'completion_tokens', completions,
            'amount', trim_scale(CASE
                WHEN is_hit THEN tokens_cost(list, m.model_id, day, 0, 0, 0, 0, 1)
                ELSE models_cost_most(list, p_model_ids, day, p_reserved - completions, completions) END)::text),
        'forecast', CASE
            WHEN is_hit OR p_look.leader_id IS NOT NULL THEN jsonb_build_object(
                'prompt_tokens', 0, 'completion_tokens', 0,
                'amount', trim_scale(tokens_cost(list, m.model_id, day, 0, 0, 0, 0, 1))::text, 'answers', 1,
                'is_own', true)
            WHEN forecast.answers IS NOT NULL THEN jsonb_build_object(
                'prompt_tokens', forecast.prompt_tokens, 'completion_tokens', forecast.completion_tokens,
                'amount', trim_scale(tokens_cost(list, m.model_id, day, forecast.prompt_tokens,
                                                 forecast.completion_tokens, 0, 0, 0))::text,
                -- How much others ask is nobody's business.
                'answers', CASE WHEN forecast.is_own THEN forecast.answers END, 'is_own', forecast.is_own) END,
        'cache', p_look.said,
        'wait_seconds', CASE WHEN is_hit THEN 0 ELSE wait.seconds END,
        'wait_basis', CASE WHEN NOT is_hit THEN wait.basis END,
        'processing_ms', CASE WHEN is_hit THEN 0 ELSE model_processing_ms(m.model_id) END);
END $$;

-- How long a request of the user would wait to be started: not at all if the dispatch window has room and nothing waits
-- before it, otherwise at the rate at which the user's requests end. NULL: it is not known. p_follows: it would wait
-- for an equal one. p_not_before: it waits until then in any case. p_window: it would be of the waiting class.
CREATE OR REPLACE FUNCTION quote_wait(
    plan quota_plans, p_follows boolean, p_not_before timestamptz, p_window text, OUT seconds integer, OUT basis jsonb
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    pause   integer := least(greatest(ceil(extract(epoch FROM p_not_before - clock_now())), 0), 2147483647);
    counted record;
    lately  record;
BEGIN
    SELECT count(*) FILTER (WHERE i.dispatched_at IS NOT NULL) AS dispatched,
           count(*) FILTER (WHERE i.dispatched_at IS NULL AND i.follows IS NULL
                                  AND coalesce(i.not_before, '-infinity') <= clock_now()
                                  AND (i.priority = 0 OR p_window IS NOT NULL)) AS waiting
    INTO counted FROM inflight i WHERE i.user_id = plan.user_id;
    IF p_follows
       OR counted.waiting = 0 AND (p_window IS NULL AND counted.dispatched < plan.dispatch_window
                                   OR p_window IS NOT NULL AND waiting_slots(plan, counted.dispatched) > 0)
    THEN
        seconds := pause;
        RETURN;
    END IF;
    lately := requests_ended_lately(plan.user_id);
    IF lately.ended > 0 THEN
        seconds := greatest(ceil((counted.waiting + 1) * lately.seconds / lately.ended), pause);
        basis := jsonb_build_object('position', counted.waiting + 1, 'answered', lately.ended,
                                    'seconds', ceil(lately.seconds));
    END IF;
END $$;

-- The mean time that a model's requests of the last seven days took; NULL: there were none.
CREATE OR REPLACE FUNCTION model_processing_ms(p_model_id text) RETURNS integer
    LANGUAGE sql STABLE
    RETURN (SELECT (sum(s.processing_time_ms_sum) / nullif(sum(s.processed_count), 0))::integer
            FROM request_stats s
            WHERE s.model_id = p_model_id AND s.day >= date_trunc('day', clock_now()) - interval '7 days');

CALL define_type('quotation', $$outcome text, model_id text, detail jsonb, quoted jsonb, user_id text$$);

CREATE OR REPLACE FUNCTION request_quote(p_key_hash bytea, p_submission jsonb) RETURNS quotation
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    made   decision := submission_decide(p_key_hash, p_submission || '{"quote": true}');
    result quotation;
BEGIN
    result.outcome := made.outcome;
    result.model_id := made.model_id;
    result.detail := made.detail;
    result.quoted := made.quoted;
    result.user_id := made.user_id;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_quote(bytea, jsonb) IS
    'What would become of a submission: outcome and detail as request_submit would answer now, with nothing accepted. '
    'quoted: NULL if it is refused before it is known what it would use: no such key, no such model, and the like.';
