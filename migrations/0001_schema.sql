-- Everything lives in the schema "analytics". Plain SQL for PostgreSQL 14 and later, no extensions.

CREATE TABLE analytics.hits (
    id uuid NOT NULL,
    time timestamptz NOT NULL,              -- start of the request
    page_view boolean NOT NULL,
    duration_us bigint NOT NULL,            -- to the last body message
    bytes_sent bigint NOT NULL,
    score smallint NOT NULL,
    level smallint NOT NULL,                -- 0 normal, 1 warning, 2 severe, 3 blocked
    status smallint,                        -- NULL when the app sent none that is valid
    first_byte_us bigint,
    close_code integer,                     -- websockets
    level_before smallint,                  -- set when this hit changed the level
    decision_id uuid,
    outcome text NOT NULL,                  -- complete, aborted, refused, error
    method text NOT NULL,                   -- WEBSOCKET for a websocket
    path text NOT NULL,                     -- without query and secrets, at most 1,024 characters
    route text,                             -- template, where the app reveals one
    query text,                             -- only with Privacy(query="redacted")
    channel text, source text,
    utm_source text, utm_medium text, utm_campaign text, utm_term text, utm_content text, click_id text,
    session_id uuid,                        -- NULL when the visitor asked not to be told apart
    fingerprint uuid,
    network uuid,
    site text NOT NULL,
    address text,                           -- only what Privacy(address=…) keeps
    country text, region text, city text, asn bigint, organisation text,
    browser text, browser_version text, os text, os_version text, device text NOT NULL,
    bot_class text, crawler text,
    language text,
    provisional boolean NOT NULL            -- fingerprint made with one worker's emergency salt
) PARTITION BY RANGE (time);

CREATE INDEX hits_time ON analytics.hits (time);
CREATE INDEX hits_session ON analytics.hits (session_id) WHERE session_id IS NOT NULL;

CREATE TABLE analytics.hits_default PARTITION OF analytics.hits DEFAULT;

CREATE TABLE analytics.sessions (
    id uuid PRIMARY KEY,
    site text NOT NULL,
    fingerprint uuid NOT NULL,
    started_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    hits integer NOT NULL,
    page_views integer NOT NULL,
    errors integer NOT NULL,                -- answered 400 and above, our refusals aside
    refusals integer NOT NULL,
    bytes_sent bigint NOT NULL,
    entry_path text,                        -- of the first and the last page view
    exit_path text,
    score smallint NOT NULL,                -- the highest
    level smallint NOT NULL,
    channel text, source text,
    utm_source text, utm_medium text, utm_campaign text, utm_term text, utm_content text, click_id text,
    country text, region text, city text, asn bigint, organisation text,
    browser text, browser_version text, os text, os_version text, device text NOT NULL,
    bot_class text, crawler text,
    language text
) WITH (fillfactor = 80);                   -- room for HOT updates: no index holds a column that changes

CREATE INDEX sessions_fingerprint ON analytics.sessions (fingerprint);
CREATE INDEX sessions_started_at ON analytics.sessions (started_at);

CREATE TABLE analytics.fingerprints (
    fingerprint uuid PRIMARY KEY,
    site text NOT NULL,
    network uuid,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    sessions integer NOT NULL,
    hits bigint NOT NULL,
    page_views bigint NOT NULL,
    refusals bigint NOT NULL,
    charges bigint NOT NULL,                -- units charged by hits that were stored while fresh
    minute_at timestamptz NOT NULL,
    minute_charges integer NOT NULL,        -- of these, in the minute that begins at minute_at
    peak_per_minute integer NOT NULL,
    score smallint NOT NULL,                -- the highest
    level smallint NOT NULL,
    level_changed_at timestamptz,
    reputation smallint NOT NULL DEFAULT 50,    -- 0 to 100
    flagged boolean NOT NULL DEFAULT false,
    flag_reason text,
    flagged_at timestamptz,
    abuse_incidents integer NOT NULL DEFAULT 0, -- times the level reached blocked
    last_abuse_at timestamptz,
    journal uuid NOT NULL,                  -- the last writer
    seen jsonb,                             -- journal → charges at its last batch; NULL while one writer sees the visitor
    remote integer NOT NULL                 -- units that others charged since the last writer's batch before
) WITH (fillfactor = 80);

CREATE INDEX fingerprints_flagged ON analytics.fingerprints (flagged_at) WHERE flagged;

CREATE TABLE analytics.decisions (
    id uuid PRIMARY KEY,
    time timestamptz NOT NULL,
    site text NOT NULL,
    hit_id uuid NOT NULL,
    fingerprint uuid,
    network uuid,
    refused boolean NOT NULL,
    enforced boolean NOT NULL,              -- false in observe mode: what would have happened
    level smallint NOT NULL,
    level_before smallint,
    score smallint NOT NULL,
    retry_after integer NOT NULL,           -- seconds, 0 when not refused
    detail jsonb NOT NULL                   -- violated, reasons, signals with value, points and threshold
);

CREATE INDEX decisions_time ON analytics.decisions (time);

-- Not in the write-ahead log and not in backups: an old salt would make fingerprints recomputable.
CREATE UNLOGGED TABLE analytics.salts (
    period date PRIMARY KEY,
    key bytea NOT NULL CHECK (length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE analytics.positions (
    journal uuid PRIMARY KEY,
    segment integer NOT NULL DEFAULT 0,
    position bigint NOT NULL DEFAULT 0,     -- offset behind the last committed frame
    rows bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    host text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE analytics.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    journal uuid NOT NULL,
    segment integer NOT NULL,
    position bigint NOT NULL,               -- offset of the frame
    kind text NOT NULL,                     -- hit, decision, frame
    columns text[] NOT NULL,
    raw bytea NOT NULL,                     -- COPY binary format
    sqlstate text,
    error text NOT NULL
);

-- The one definition of human traffic: no declared crawler, no behavioural bot, not refused.
CREATE VIEW analytics.human_sessions AS
SELECT * FROM analytics.sessions
WHERE bot_class IS NULL AND score < 50 AND level < 3 AND page_views > 0;

CREATE VIEW analytics.human_hits AS
SELECT * FROM analytics.hits
WHERE bot_class IS NULL AND score < 50 AND level < 3 AND outcome <> 'refused';

-- Makes the day partitions of the period; days that the default partition already holds are left to it.
CREATE FUNCTION analytics.ensure_partitions(first date, last date) RETURNS integer
-- With the rights of the schema's owner: workers need no more than to read and write.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day date;
    made integer := 0;
    name text;
BEGIN
    FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
        name := 'hits_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('analytics.' || name) IS NOT NULL;
        -- Several workers come here at once, at midnight and when they start.
        PERFORM pg_advisory_xact_lock(hashtext('analytics.ensure_partitions'));
        -- Asked of the table itself: to_regclass may remember that there was none.
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_class WHERE relnamespace = 'analytics'::regnamespace AND relname = name);
        CONTINUE WHEN EXISTS (
            SELECT FROM analytics.hits_default
            WHERE time >= day::timestamp AT TIME ZONE 'UTC' AND time < (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE format(
            'CREATE TABLE analytics.%I PARTITION OF analytics.hits FOR VALUES FROM (%L) TO (%L)',
            name, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
