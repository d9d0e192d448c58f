-- Quotas that workers share: what is lent to whom. Nothing here outlives a crash, and nothing has to.

CREATE UNLOGGED TABLE analytics.workers (
    worker uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    revision bigint NOT NULL                -- of counters.revision: up to which it knows how scarce they are
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE analytics.counters (
    counter bytea PRIMARY KEY,              -- keyed hash of visitor or client network, and the window's seconds
    stage smallint NOT NULL DEFAULT 0,      -- 0, 1, 2: how little workers may admit unasked
    revision bigint NOT NULL DEFAULT 0,     -- under which the stage was told
    state jsonb NOT NULL DEFAULT '{}',      -- window, units of this window and the one before, loans
    touched_at timestamptz NOT NULL DEFAULT now(),
    CHECK (length(counter) <= 24)
) WITH (fillfactor = 50);

CREATE INDEX counters_revision ON analytics.counters (revision) WHERE stage > 0;

CREATE SEQUENCE analytics.counter_revisions;
