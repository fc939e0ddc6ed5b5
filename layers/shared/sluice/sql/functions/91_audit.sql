-- The audit log: nobody changes it, and the chain of hashes shows if somebody did all the same.

CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE OR REPLACE TRIGGER audit_never_truncated BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_chain
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE OR REPLACE TRIGGER audit_never_truncated BEFORE TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- Times as microseconds, so that no session's time zone is in it; columns without a value left out, so that a column
-- which is added later changes no digest of before.
CREATE OR REPLACE FUNCTION audit_digest(a audit_log) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(jsonb_strip_nulls(jsonb_build_object(
        'audit_id', a.audit_id, 'at', (extract(epoch FROM a.at) * 1000000)::bigint, 'xact_id', a.xact_id,
        'actor', a.actor, 'action', a.action, 'user_id', a.user_id, 'key_id', a.key_id, 'request_id', a.request_id,
        'before', a.before::text, 'after', a.after::text, 'invocation', a.invocation))::text, 'UTF8'));
$$;

CREATE OR REPLACE FUNCTION audit_chain_hash(b audit_chain) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(
        b.previous_hash || int8send(b.batch_no) || int8send((extract(epoch FROM b.built_at) * 1000000)::bigint)
        || int8send(b.xact_low) || int8send(b.xact_high) || int8send(b.xact_next)
        || (SELECT string_agg(uuid_send(e.id) || e.digest, ''::bytea ORDER BY e.n)
            FROM unnest(b.audit_ids, b.digests) WITH ORDINALITY AS e (id, digest, n)));
$$;

-- Seals what has been committed since the last batch, in the order of the transactions: only below the oldest one that
-- still runs, so that nothing can appear there later.
CREATE OR REPLACE FUNCTION audit_seal(at_most integer, OUT sealed integer, OUT is_more boolean, OUT head text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    last  audit_chain;
    batch audit_chain;
    cut   bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.audit_chain'));
    SELECT * INTO last FROM audit_chain c ORDER BY c.batch_no DESC LIMIT 1;
    batch.batch_no := coalesce(last.batch_no, 0) + 1;
    batch.xact_low := coalesce(last.xact_high, 0);
    batch.previous_hash := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    batch.built_at := clock_timestamp();  -- before the snapshot: see xact_next
    SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
    INTO batch.xact_high, batch.xact_next FROM pg_current_snapshot() AS s;

    -- Transactions are not divided; one that is longer than a batch may be is a batch by itself.
    SELECT a.xact_id INTO cut FROM audit_log a
    WHERE a.xact_id >= batch.xact_low AND a.xact_id < batch.xact_high
    ORDER BY a.xact_id OFFSET at_most LIMIT 1;
    is_more := FOUND;
    IF is_more THEN
        batch.xact_high := cut;
        IF NOT EXISTS (SELECT FROM audit_log a WHERE a.xact_id >= batch.xact_low AND a.xact_id < cut) THEN
            batch.xact_high := cut + 1;
        END IF;
    END IF;

    SELECT array_agg(a.audit_id ORDER BY a.xact_id, a.audit_id), array_agg(audit_digest(a) ORDER BY a.xact_id, a.audit_id)
    INTO batch.audit_ids, batch.digests
    FROM audit_log a WHERE a.xact_id >= batch.xact_low AND a.xact_id < batch.xact_high;

    sealed := coalesce(cardinality(batch.audit_ids), 0);
    IF sealed > 0 THEN
        batch.hash := audit_chain_hash(batch);
        INSERT INTO audit_chain SELECT (batch).*;
        UPDATE rollup_watermarks w SET xact_id = batch.xact_high, updated_at = clock_now() WHERE w.task = 'audit';
    END IF;
    head := audit_head();
END $$;
COMMENT ON FUNCTION audit_seal(integer) IS
    'Adds a batch to the chain where there is something to seal. is_more: there is more of it. head: number and hash of the last batch, to be kept '
    'outside of this database.';

-- Compares batches after one with the rows that they sealed; stops at the first that is wrong, and names the row.
--   kind  altered | missing | inserted: a row of the log; chain: the batch itself was changed, or one is missing
CREATE OR REPLACE FUNCTION audit_verify(
    after_batch bigint, at_most integer,
    OUT batches integer, OUT row_count bigint, OUT last_batch bigint, OUT kind text, OUT audit_id uuid, OUT batch_no bigint
)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    -- A clock that was corrected a little is no forgery.
    tolerance constant interval := interval '1 minute';
    last  audit_chain;
    batch audit_chain;
BEGIN
    batches := 0;
    row_count := 0;
    SELECT * INTO last FROM audit_chain c WHERE c.batch_no = after_batch;
    FOR batch IN SELECT * FROM audit_chain c WHERE c.batch_no > after_batch ORDER BY c.batch_no LIMIT at_most LOOP
        IF batch.batch_no <> coalesce(last.batch_no, 0) + 1 OR batch.xact_low <> coalesce(last.xact_high, 0)
           OR batch.previous_hash <> coalesce(last.hash, decode(repeat('00', 32), 'hex'))
           OR batch.hash <> audit_chain_hash(batch)
        THEN
            kind := 'chain';
            batch_no := batch.batch_no;
            RETURN;
        END IF;

        SELECT f.kind, f.audit_id INTO kind, audit_id
        FROM (
            SELECT coalesce(e.id, a.audit_id) AS audit_id,
                   CASE WHEN a.audit_id IS NULL AND EXISTS (SELECT FROM audit_log o WHERE o.audit_id = e.id) THEN 'altered'
                        WHEN a.audit_id IS NULL THEN 'missing'
                        WHEN e.id IS NULL THEN 'inserted'
                        WHEN e.digest <> audit_digest(a) THEN 'altered'
                        -- Of a transaction that had not begun when the batch before was sealed, yet older than that.
                        WHEN a.xact_id >= last.xact_next
                             AND least(a.at, uuid_extract_timestamp(a.audit_id)) < last.built_at - tolerance THEN 'inserted'
                   END AS kind
            FROM unnest(batch.audit_ids, batch.digests) AS e (id, digest)
            FULL JOIN (
                SELECT * FROM audit_log g
                WHERE (g.xact_id >= batch.xact_low OR batch.batch_no = 1) AND g.xact_id < batch.xact_high
            ) AS a
                ON a.audit_id = e.id
        ) AS f
        WHERE f.kind IS NOT NULL
        ORDER BY f.audit_id LIMIT 1;
        IF kind IS NOT NULL THEN
            batch_no := batch.batch_no;
            RETURN;
        END IF;

        batches := batches + 1;
        row_count := row_count + cardinality(batch.audit_ids);
        last := batch;
    END LOOP;
    last_batch := last.batch_no;

    IF batches < at_most THEN
        -- How far it was sealed is written elsewhere too: the end of the chain does not go unnoticed.
        IF (SELECT w.xact_id FROM rollup_watermarks w WHERE w.task = 'audit') <> coalesce(last.xact_high, 0) THEN
            kind := 'chain';
            batch_no := coalesce(last.batch_no, 0) + 1;
            RETURN;
        END IF;
        -- What is not sealed yet can at least not be older than the seal, nor of a transaction that is still to come.
        SELECT 'inserted', a.audit_id INTO kind, audit_id
        FROM audit_log a
        WHERE a.xact_id >= coalesce(last.xact_high, 0)
          AND (a.xact_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
               OR a.xact_id >= last.xact_next
                  AND least(a.at, uuid_extract_timestamp(a.audit_id)) < last.built_at - tolerance)
        ORDER BY a.audit_id LIMIT 1;
    END IF;
END $$;
COMMENT ON FUNCTION audit_verify IS
    'batches and row_count: what was found in order; last_batch: where to go on; fewer batches than at_most: that was all.';

CREATE OR REPLACE FUNCTION audit_head() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT c.batch_no || ':' || encode(c.hash, 'hex') FROM audit_chain c ORDER BY c.batch_no DESC LIMIT 1;
$$;
COMMENT ON FUNCTION audit_head() IS 'Number and hash of the last batch; NULL while nothing is sealed.';

CREATE OR REPLACE FUNCTION audit_chain_since(since_xact bigint) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT coalesce(max(c.batch_no), 0) FROM audit_chain c WHERE c.xact_high <= since_xact;
$$;
COMMENT ON FUNCTION audit_chain_since(bigint) IS 'The last batch that holds only rows of transactions below this one; 0: none.';

CREATE OR REPLACE FUNCTION audit_chain_has(number bigint, hash_hex text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT EXISTS (SELECT FROM audit_chain c WHERE c.batch_no = number AND c.hash = decode(hash_hex, 'hex'));
$$;
COMMENT ON FUNCTION audit_chain_has(bigint, text) IS 'Whether a head that was noted once is still in the chain.';

-- The audit log as operators read it, oldest first. A request's rows are found by their own ids, not through the request,
-- which they may have to prove.
CREATE OR REPLACE FUNCTION audit_entries(
    of_user text, of_request uuid, of_action text, from_time timestamptz, to_time timestamptz, after_id uuid, at_most integer
)
    RETURNS SETOF audit_log
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- Nothing is written of a request before it has its id; a second is for the clocks of two sessions.
    low  uuid := greatest(uuidv7_floor(from_time), after_id, '00000000-0000-0000-0000-000000000000',
                          uuidv7_floor(uuid_extract_timestamp(of_request) - interval '1 second'));
    high uuid := coalesce(uuidv7_floor(to_time), 'ffffffff-ffff-ffff-ffff-ffffffffffff');
BEGIN
    RETURN QUERY
        SELECT a.* FROM audit_log a
        WHERE a.audit_id >= low AND a.audit_id < high AND (after_id IS NULL OR a.audit_id > after_id)
          AND (of_user IS NULL OR a.user_id = of_user)
          AND (of_request IS NULL OR a.request_id = of_request)
          AND (of_action IS NULL OR a.action = of_action)
        ORDER BY a.audit_id LIMIT at_most;
END $$;
