-- The audit chain: it shows whether rows of the audit log were altered, removed or inserted in spite of the triggers.

-- Times are hashed as microseconds, so that the session's time zone does not matter. Columns without a value are left
-- out, so that a column that is added later does not change earlier digests.
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

CALL define_type('audit_sealing', $$sealed integer, is_more boolean, head text$$);

-- Seals what was committed since the last batch, in the order of transaction ids. It stops before the oldest
-- transaction that is still running, so that no row can appear later among those that are sealed.
CREATE OR REPLACE FUNCTION audit_seal(p_limit integer) RETURNS audit_sealing
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    last   audit_chain;
    batch  audit_chain;
    cut    bigint;
    result audit_sealing;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.audit_chain'));
    SELECT * INTO last FROM audit_chain c ORDER BY c.batch_no DESC LIMIT 1;
    batch.batch_no := coalesce(last.batch_no, 0) + 1;
    batch.xact_low := coalesce(last.xact_high, 0);
    batch.previous_hash := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    batch.built_at := clock_timestamp();  -- taken before the snapshot: see xact_next
    SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
    INTO batch.xact_high, batch.xact_next FROM pg_current_snapshot() AS s;

    -- A transaction is never divided: if it has more rows than the limit, it is a batch of its own.
    SELECT a.xact_id INTO cut FROM audit_log a
    WHERE a.xact_id >= batch.xact_low AND a.xact_id < batch.xact_high
    ORDER BY a.xact_id OFFSET p_limit LIMIT 1;
    result.is_more := FOUND;
    IF result.is_more THEN
        batch.xact_high := cut;
        IF NOT EXISTS (SELECT FROM audit_log a WHERE a.xact_id >= batch.xact_low AND a.xact_id < cut) THEN
            batch.xact_high := cut + 1;
        END IF;
    END IF;

    SELECT array_agg(a.audit_id ORDER BY a.xact_id, a.audit_id),
           array_agg(audit_digest(a) ORDER BY a.xact_id, a.audit_id)
    INTO batch.audit_ids, batch.digests
    FROM audit_log a WHERE a.xact_id >= batch.xact_low AND a.xact_id < batch.xact_high;

    result.sealed := coalesce(cardinality(batch.audit_ids), 0);
    IF result.sealed > 0 THEN
        batch.hash := audit_chain_hash(batch);
        INSERT INTO audit_chain SELECT (batch).*;
        UPDATE rollup_watermarks w SET xact_id = batch.xact_high, updated_at = clock_now() WHERE w.task = 'audit';
    END IF;
    result.head := audit_head();
    RETURN result;
END $$;
COMMENT ON FUNCTION audit_seal(integer) IS
    'Adds a batch to the chain if there is something to seal. is_more: there is more to seal. head: number and hash of '
    'the last batch, to be kept outside of this database.';

CALL define_type('audit_verification', $$
    batches integer, row_count bigint, last_batch bigint, kind text, audit_id uuid, batch_no bigint
$$);

-- Compares the batches after the given one with the rows that they sealed. Stops at the first batch that is wrong, and
-- names the row.
--   kind  altered | missing | inserted: a row of the log; chain: the batch itself was changed, or a batch is missing
CREATE OR REPLACE FUNCTION audit_verify(p_after_batch bigint, p_limit integer) RETURNS audit_verification
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- A small correction of the clock must not look like a forgery.
    tolerance constant interval := interval '1 minute';
    last   audit_chain;
    batch  audit_chain;
    result audit_verification;
BEGIN
    result.batches := 0;
    result.row_count := 0;
    SELECT * INTO last FROM audit_chain c WHERE c.batch_no = p_after_batch;
    FOR batch IN SELECT * FROM audit_chain c WHERE c.batch_no > p_after_batch ORDER BY c.batch_no LIMIT p_limit LOOP
        IF batch.batch_no <> coalesce(last.batch_no, 0) + 1 OR batch.xact_low <> coalesce(last.xact_high, 0)
           OR batch.previous_hash <> coalesce(last.hash, decode(repeat('00', 32), 'hex'))
           OR batch.hash <> audit_chain_hash(batch)
        THEN
            result.kind := 'chain';
            result.batch_no := batch.batch_no;
            RETURN result;
        END IF;

        SELECT f.kind, f.audit_id INTO result.kind, result.audit_id
        FROM (
            SELECT coalesce(e.id, a.audit_id) AS audit_id,
                   CASE WHEN a.audit_id IS NULL AND EXISTS (SELECT FROM audit_log o WHERE o.audit_id = e.id)
                            THEN 'altered'
                        WHEN a.audit_id IS NULL THEN 'missing'
                        WHEN e.id IS NULL THEN 'inserted'
                        WHEN e.digest <> audit_digest(a) THEN 'altered'
                        -- Its transaction had not begun when the previous batch was sealed, but the row is older.
                        WHEN a.xact_id >= last.xact_next
                             AND least(a.at, uuid_extract_timestamp(a.audit_id)) < last.built_at - tolerance
                            THEN 'inserted'
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
        IF result.kind IS NOT NULL THEN
            result.batch_no := batch.batch_no;
            RETURN result;
        END IF;

        result.batches := result.batches + 1;
        result.row_count := result.row_count + cardinality(batch.audit_ids);
        last := batch;
    END LOOP;
    result.last_batch := last.batch_no;

    IF result.batches < p_limit THEN
        -- The watermark also says how far the log was sealed, so batches missing at the end of the chain are noticed.
        IF (SELECT w.xact_id FROM rollup_watermarks w WHERE w.task = 'audit') <> coalesce(last.xact_high, 0) THEN
            result.kind := 'chain';
            result.batch_no := coalesce(last.batch_no, 0) + 1;
            RETURN result;
        END IF;
        -- Rows that are not sealed yet: their transaction must have begun, and if that was after the last batch was
        -- sealed, they must not be older than the batch.
        SELECT 'inserted', a.audit_id INTO result.kind, result.audit_id
        FROM audit_log a
        WHERE a.xact_id >= coalesce(last.xact_high, 0)
          AND (a.xact_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
               OR a.xact_id >= last.xact_next
                  AND least(a.at, uuid_extract_timestamp(a.audit_id)) < last.built_at - tolerance)
        ORDER BY a.audit_id LIMIT 1;
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION audit_verify(bigint, integer) IS
    'batches, row_count: how many batches and rows were found correct. last_batch: where to continue. Fewer batches '
    'than the limit: these were all.';

CREATE OR REPLACE FUNCTION audit_head() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT c.batch_no || ':' || encode(c.hash, 'hex') FROM audit_chain c ORDER BY c.batch_no DESC LIMIT 1;
$$;
COMMENT ON FUNCTION audit_head() IS 'Number and hash of the last batch; NULL if nothing is sealed yet.';

CREATE OR REPLACE FUNCTION audit_chain_since(p_xact_id bigint) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT coalesce(max(c.batch_no), 0) FROM audit_chain c WHERE c.xact_high <= p_xact_id;
$$;
COMMENT ON FUNCTION audit_chain_since(bigint) IS
    'The last batch that holds only rows of transactions below this one; 0 if there is none.';

CREATE OR REPLACE FUNCTION audit_chain_has(p_batch_no bigint, p_hash text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM audit_chain c WHERE c.batch_no = p_batch_no AND c.hash = decode(p_hash, 'hex'));
$$;
COMMENT ON FUNCTION audit_chain_has(bigint, text) IS
    'Whether a chain head that was noted earlier (its hash in hexadecimal) is still in the chain.';
