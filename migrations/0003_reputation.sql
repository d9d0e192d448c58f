-- Reputation that ages, the incidents it rests on, rulings (bans, pardons, allowances) and labelled cases.

-- The pull back to 50 since a score was last lowered: half of the distance is gone after a day, so that a calm week
-- restores it. The same formula as asgi_analytics/decide/reputation.py; a test compares both.
CREATE FUNCTION analytics.decayed(score double precision, since timestamptz, at timestamptz) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- Bounded on both sides: the clock may have gone back, and power() refuses what is too small for a float.
    SELECT 50.0 + (score - 50.0) * power(2.0::double precision,
        -least(greatest(coalesce(extract(epoch FROM at - since)::double precision, 0.0), 0.0), 5184000.0) / 86400.0)
$$;

ALTER TABLE analytics.fingerprints
    ALTER COLUMN reputation TYPE double precision,      -- as of reputation_at: see analytics.decayed
    ADD COLUMN reputation_at timestamptz,               -- of the newest incident; NULL: none
    ADD COLUMN hour_at timestamptz,                     -- a clock hour: windows that do not overlap count nothing twice
    ADD COLUMN hour_page_views integer NOT NULL DEFAULT 0,
    ADD COLUMN hour_sessions integer NOT NULL DEFAULT 0,
    ADD COLUMN minute_page_views integer NOT NULL DEFAULT 0,    -- in the minute that begins at minute_at
    ADD COLUMN busy_minutes integer NOT NULL DEFAULT 0,         -- full minutes in a row, just before minute_at
    ADD COLUMN pardoned_at timestamptz;

-- What lowers a reputation. One row for each piece of evidence, whatever repeats it: the key says so.
CREATE TABLE analytics.incidents (
    kind text NOT NULL,
    evidence text NOT NULL,                 -- the hit, the session, or the visitor and its clock window
    time timestamptz NOT NULL,
    site text NOT NULL,
    fingerprint uuid NOT NULL,
    network uuid,
    points smallint NOT NULL,
    pardoned boolean NOT NULL DEFAULT false,
    PRIMARY KEY (kind, evidence)
);

CREATE INDEX incidents_fingerprint ON analytics.incidents (fingerprint, time);
CREATE INDEX incidents_time ON analytics.incidents (time);

-- Client networks with incidents, and no others. The key is the hash of the day: at midnight (UTC) a network begins
-- anew, for nothing in the database tells that it is the same one.
CREATE TABLE analytics.networks (
    network uuid PRIMARY KEY,
    site text NOT NULL,
    first_incident_at timestamptz NOT NULL,
    last_incident_at timestamptz NOT NULL,
    incidents integer NOT NULL,
    reputation double precision NOT NULL,   -- as of reputation_at
    reputation_at timestamptz NOT NULL
) WITH (fillfactor = 80);

CREATE SEQUENCE analytics.ruling_revisions;

CREATE TABLE analytics.rulings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    revision bigint NOT NULL,               -- a new one at each change: workers ask for those above the last they know
    kind text NOT NULL CHECK (kind IN ('ban', 'pardon', 'allow')),
    fingerprint uuid,
    size smallint,                          -- bytes of the network's family: 4 for IPv4, 8 for IPv6 (the /64)
    prefix smallint,                        -- bits
    network bytea,                          -- the bits in clear from /24 (IPv4) and /48 (IPv6) on, else a digest keyed with:
    key bytea,                              -- lives and goes with the row
    reason text NOT NULL,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz,                      -- NULL: an allowance without an end
    lifted_at timestamptz,
    CHECK ((fingerprint IS NULL) <> (network IS NULL)),
    CHECK ((network IS NULL) = (size IS NULL) AND (network IS NULL) = (prefix IS NULL)),
    CHECK (key IS NULL OR (length(key) = 32 AND length(network) = 16)),
    CHECK (kind = 'allow' OR until IS NOT NULL)
);

CREATE UNIQUE INDEX rulings_revision ON analytics.rulings (revision);
CREATE INDEX rulings_fingerprint ON analytics.rulings (fingerprint) WHERE fingerprint IS NOT NULL;

-- Revisions are given and committed in the same order: a worker that has seen one has seen all below it.
CREATE FUNCTION analytics.number_ruling() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('analytics.rulings'));
    NEW.revision := nextval('analytics.ruling_revisions');
    RETURN NEW;
END
$$;

CREATE TRIGGER number_ruling BEFORE INSERT OR UPDATE ON analytics.rulings
FOR EACH ROW EXECUTE FUNCTION analytics.number_ruling();

-- What was decided wrongly, as it was known when it was decided.
CREATE TABLE analytics.cases (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    labelled_at timestamptz NOT NULL DEFAULT now(),
    label text NOT NULL DEFAULT 'false_positive',
    site text,
    target text NOT NULL,                   -- fingerprint, or network as the operator is shown it
    fingerprint uuid,
    reason text NOT NULL,
    labelled_by text NOT NULL,
    level smallint,
    score smallint,
    reputation double precision,
    decision_id uuid,                       -- the last rise of the level or refusal
    decided_at timestamptz,
    detail jsonb,                           -- of that decision: signals, inputs, policy version
    incidents jsonb NOT NULL DEFAULT '[]',
    bans jsonb NOT NULL DEFAULT '[]'        -- that the pardon lifted
);

CREATE INDEX cases_labelled_at ON analytics.cases (labelled_at);
