-- min_compatible_version: 1
-- Webhooks: where users want to be told how their requests ended, what they are told, and each attempt to do so.

-- First those locks that others take first: submissions the user locks (see also 0007_token_classes.sql). No row is
-- read or rewritten meanwhile.
LOCK TABLE quota_plans, inflight IN ACCESS EXCLUSIVE MODE;

ALTER TABLE quota_plans ADD COLUMN has_webhooks boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN quota_plans.has_webhooks IS
    'Whether the user has endpoints for webhooks, so that the requests of those who have none need not ask.';
ALTER TABLE inflight ADD COLUMN has_webhook boolean;
COMMENT ON COLUMN inflight.has_webhook IS
    'Whether the request named an URL of its own for its event (prompts.handling). NULL: no.';

CREATE TABLE webhook_endpoints (
    endpoint_id      uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id          varchar(255) NOT NULL REFERENCES users,
    url              text,
    name             varchar(100) NOT NULL,
    event_types      text[]       NOT NULL,
    secret           text         NOT NULL,
    old_secret       text,
    old_secret_until timestamptz,
    max_concurrency  smallint     NOT NULL DEFAULT 5,
    created_at       timestamptz  NOT NULL,
    updated_at       timestamptz  NOT NULL,
    disabled_at      timestamptz,
    disabled_reason  varchar(20),
    failures         integer      NOT NULL DEFAULT 0,
    paused_until     timestamptz,
    CONSTRAINT webhook_endpoints_secret_form CHECK (secret LIKE 'whsec\_%'),
    CONSTRAINT webhook_endpoints_old_secret_has_an_end CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    CONSTRAINT webhook_endpoints_disabled_for_a_reason CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    CONSTRAINT webhook_endpoints_disabled_reason_known CHECK (disabled_reason IN ('gone', 'user', 'operator')),
    CONSTRAINT webhook_endpoints_concurrency_positive CHECK (max_concurrency > 0)
) WITH (fillfactor = 80);
CREATE INDEX webhook_endpoints_of_user ON webhook_endpoints (user_id, endpoint_id);
CREATE UNIQUE INDEX webhook_endpoints_one_for_requests ON webhook_endpoints (user_id) WHERE url IS NULL;
COMMENT ON TABLE webhook_endpoints IS 'Where users are told how their requests ended.';
COMMENT ON COLUMN webhook_endpoints.url IS
    'NULL: the row with the secret of the events of requests that name an URL themselves; at most one for a user.';
COMMENT ON COLUMN webhook_endpoints.secret IS 'Signs the events; only entry points read it, and no listing has it.';
COMMENT ON COLUMN webhook_endpoints.old_secret IS 'Signs them too, until old_secret_until.';
COMMENT ON COLUMN webhook_endpoints.disabled_reason IS 'gone: it answered 410. NULL: it is not disabled.';
COMMENT ON COLUMN webhook_endpoints.failures IS 'One after the other, without a success since.';
COMMENT ON COLUMN webhook_endpoints.paused_until IS 'Nothing is sent before: too many failed, or it asked for that.';

CREATE TABLE webhook_events (
    event_id        uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id         varchar(255) NOT NULL,
    endpoint_id     uuid         NOT NULL,
    request_id      uuid,
    url             text,
    event_type      varchar(64)  NOT NULL,
    data_id         varchar(64)  NOT NULL,
    created_at      timestamptz  NOT NULL,
    expires_at      timestamptz  NOT NULL,
    state           varchar(20)  NOT NULL DEFAULT 'pending',
    attempts        smallint     NOT NULL DEFAULT 0,
    max_attempts    smallint     NOT NULL,
    next_attempt_at timestamptz  NOT NULL,
    leased_until    timestamptz,
    ended_at        timestamptz,
    last_cause      varchar(20),
    CONSTRAINT webhook_events_state_known CHECK (state IN ('pending', 'delivered', 'dead')),
    CONSTRAINT webhook_events_ended_or_pending CHECK ((ended_at IS NULL) = (state = 'pending')),
    CONSTRAINT webhook_events_leased_only_if_pending CHECK (leased_until IS NULL OR state = 'pending')
) WITH (fillfactor = 80);
CREATE INDEX webhook_events_pending ON webhook_events (endpoint_id, next_attempt_at) WHERE state = 'pending';
CREATE INDEX webhook_events_leased ON webhook_events (endpoint_id) WHERE leased_until IS NOT NULL;
CREATE INDEX webhook_events_of_user ON webhook_events (user_id, event_id);
CREATE INDEX webhook_events_ended ON webhook_events (ended_at) WHERE ended_at IS NOT NULL;
COMMENT ON TABLE webhook_events IS
    'Outbox of webhooks: an event for each endpoint, written in the commit that ends its request. Kept for 30 days.';
COMMENT ON COLUMN webhook_events.request_id IS 'NULL: a test.';
COMMENT ON COLUMN webhook_events.url IS 'What the request itself named; NULL: that of the endpoint.';
COMMENT ON COLUMN webhook_events.data_id IS 'The id by which the client knows its request.';
COMMENT ON COLUMN webhook_events.attempts IS 'Claims so far. Also the fencing token: only the last one may settle.';
COMMENT ON COLUMN webhook_events.next_attempt_at IS 'While it is claimed: when its lease ends.';

CREATE TABLE webhook_deliveries (
    event_id    uuid        NOT NULL REFERENCES webhook_events ON DELETE CASCADE,
    attempt     smallint    NOT NULL,
    at          timestamptz NOT NULL,
    status_code smallint,
    cause       varchar(20),
    latency_ms  integer,
    PRIMARY KEY (event_id, attempt)
);
COMMENT ON TABLE webhook_deliveries IS 'Attempts to deliver an event.';
COMMENT ON COLUMN webhook_deliveries.cause IS 'Why it failed; NULL: it did not.';
