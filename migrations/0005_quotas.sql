-- Quotas that workers share: what is lent to whom. Nothing here outlives a crash of the server, and nothing has to.

CREATE UNLOGGED TABLE analytics.workers (
    worker uuid PRIMARY KEY,
    site text NOT NULL,
    seen_at timestamptz NOT NULL,
    revision bigint NOT NULL                -- of counters.revision: up to where it knows how scarce they are
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE analytics.counters (
    counter bytea PRIMARY KEY,              -- keyed hash of visitor or client network, then the window's seconds
    span bigint NOT NULL DEFAULT 0,         -- number of the window of the clock that `units` belongs to
    units integer NOT NULL DEFAULT 0,       -- used in it
    units_before integer NOT NULL DEFAULT 0,
    stage smallint NOT NULL DEFAULT 0,      -- 0, 1, 2: how little workers may admit unasked
    raised bigint NOT NULL DEFAULT 0,       -- revision under which the stage was first told
    revision bigint NOT NULL DEFAULT 0,     -- under which it was told last
    told_at float8 NOT NULL DEFAULT 0,
    borrowers uuid[] NOT NULL DEFAULT '{}',
    lent integer[] NOT NULL DEFAULT '{}',
    lent_until float8[] NOT NULL DEFAULT '{}',
    touched_at timestamptz NOT NULL DEFAULT now(),
    CHECK (length(counter) = 20)
) WITH (fillfactor = 50);                   -- no index holds a column that each exchange changes

CREATE INDEX counters_revision ON analytics.counters (revision) WHERE stage > 0;

CREATE SEQUENCE analytics.counter_revisions;

-- One exchange of one worker; the rule is asgi_analytics/decide/lending.py, and a test compares both. In one call, so
-- that no row is locked while a message is on its way.
-- asks: [counter in hex, seconds, limit, share, used, keep, wanted] each; returns workers, scarce [counter, stage,
-- revision] and grants [counter, units, left, wait].
CREATE FUNCTION analytics.exchange_quotas(
    me uuid, my_site text, heeded bigint, life float8, most integer, asks jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    names uuid[];
    known bigint[];
    ask record;
    kept analytics.counters%ROWTYPE;
    moment float8;
    this bigint;
    faded float8;
    remaining bigint;
    reserved bigint;
    free bigint;
    extra bigint;
    settled boolean;
    is_new boolean;
    place integer;
    new_borrowers uuid[];
    new_lent integer[];
    new_until float8[];
    to_tell bytea[] := '{}';
    granted jsonb := '[]';
    told jsonb;
BEGIN
    INSERT INTO analytics.workers AS mine (worker, site, seen_at, revision)
    VALUES (me, my_site, clock_timestamp(), heeded)
    ON CONFLICT (worker) DO UPDATE SET seen_at = excluded.seen_at, revision = excluded.revision;
    IF jsonb_array_length(asks) > 0 THEN
        INSERT INTO analytics.counters (counter)
        SELECT DISTINCT decode(one ->> 0, 'hex') FROM jsonb_array_elements(asks) AS one ORDER BY 1
        ON CONFLICT DO NOTHING;
    END IF;
    SELECT array_agg(worker), array_agg(revision) INTO names, known FROM analytics.workers
    WHERE site = my_site AND seen_at > clock_timestamp() - make_interval(secs => life);
    -- Always in the same order, so that workers never wait for each other in a circle.
    FOR ask IN
        SELECT decode(one ->> 0, 'hex') AS counter, (one ->> 1)::float8 AS size, (one ->> 2)::bigint AS most,
            (one ->> 3)::bigint AS share, (one ->> 4)::bigint AS used, (one ->> 5)::bigint AS keep,
            (one ->> 6)::bigint AS wanted
        FROM jsonb_array_elements(asks) AS one ORDER BY 1
    LOOP
        SELECT * INTO kept FROM analytics.counters WHERE counter = ask.counter FOR UPDATE;
        moment := extract(epoch FROM clock_timestamp());
        this := floor(moment / ask.size);
        IF this = kept.span + 1 THEN
            kept.units_before := kept.units;
            kept.units := 0;
        ELSIF this > kept.span THEN
            kept.units_before := 0;
            kept.units := 0;
            kept.stage := 0;
        END IF;
        kept.span := greatest(kept.span, this);
        kept.units := least(kept.units + ask.used, 2000000000);
        new_borrowers := '{}';
        new_lent := '{}';
        new_until := '{}';
        free := 0;
        FOR place IN 1 .. cardinality(kept.borrowers) LOOP
            CONTINUE WHEN kept.borrowers[place] = me;
            IF kept.lent_until[place] <= moment THEN  -- nobody knows how many of them were used: all
                kept.units := kept.units + kept.lent[place];
            ELSE
                new_borrowers := new_borrowers || kept.borrowers[place];
                new_lent := new_lent || kept.lent[place];
                new_until := new_until || kept.lent_until[place];
                free := free - kept.lent[place];
            END IF;
        END LOOP;
        faded := 1.0 - (moment / ask.size - floor(moment / ask.size));
        remaining := floor(ask.most - kept.units - kept.units_before * faded);
        reserved := 0;
        settled := true;
        FOR place IN 1 .. cardinality(names) LOOP
            CONTINUE WHEN names[place] = me;
            settled := settled AND known[place] >= kept.raised;
            CONTINUE WHEN names[place] = ANY (new_borrowers);
            reserved := reserved + CASE kept.stage - (known[place] < kept.raised AND kept.stage > 0)::integer
                WHEN 0 THEN ask.share WHEN 1 THEN greatest(1, ask.share / 8) ELSE 0 END;
        END LOOP;
        free := free + remaining - least(ask.most / 2, reserved) - ask.keep;
        extra := greatest(0, least(ask.wanted - ask.keep, ceil(free::float8 / (1 + cardinality(new_borrowers)))));
        new_borrowers := new_borrowers || me;
        new_lent := new_lent || (ask.keep + extra)::integer;
        new_until := new_until || moment + life;
        is_new := free - extra < ask.most / 8 + 1 AND kept.stage < 2 AND settled AND cardinality(names) > 1;
        IF is_new OR (kept.stage > 0 AND moment - kept.told_at >= greatest(ask.size, 2.0)) THEN
            to_tell := to_tell || ask.counter;
            kept.told_at := moment;
            IF is_new THEN
                kept.stage := kept.stage + 1;
                kept.raised := 9223372036854775807;
            END IF;
        END IF;
        UPDATE analytics.counters AS counters SET span = kept.span, units = kept.units,
            units_before = kept.units_before, stage = kept.stage, raised = kept.raised, revision = kept.revision,
            told_at = kept.told_at, borrowers = new_borrowers, lent = new_lent,
            lent_until = new_until, touched_at = clock_timestamp()
        WHERE counters.counter = ask.counter;
        granted := granted || jsonb_build_array(jsonb_build_array(encode(ask.counter, 'hex'), ask.keep + extra,
            greatest(0, remaining), CASE
                WHEN remaining > 0 THEN 0.0
                WHEN kept.units < ask.most
                    THEN greatest(0.0, (faded - (ask.most - kept.units)::float8 / kept.units_before) * ask.size)
                ELSE (faded + 1.0 - ask.most::float8 / kept.units) * ask.size END));
    END LOOP;
    IF cardinality(to_tell) > 0 THEN
        -- Held to the end, and taken when there is nothing else to wait for: revisions are seen in their order.
        PERFORM pg_advisory_xact_lock(hashtext('analytics.counters'));
        UPDATE analytics.counters AS counters SET revision = told_now.revision,
            raised = least(counters.raised, told_now.revision)
        FROM (SELECT name, nextval('analytics.counter_revisions') AS revision FROM unnest(to_tell) AS name) AS told_now
        WHERE counters.counter = told_now.name;
    END IF;
    SELECT coalesce(jsonb_agg(jsonb_build_array(encode(one.counter, 'hex'), one.stage, one.revision)), '[]') INTO told
    FROM (
        SELECT counter, stage, revision FROM analytics.counters WHERE stage > 0 AND revision > heeded
        ORDER BY revision LIMIT exchange_quotas.most
    ) AS one;
    RETURN jsonb_build_object('workers', cardinality(names), 'scarce', told, 'grants', granted);
END
$$;
