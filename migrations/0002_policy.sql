-- Which policy judged a row, and what a row lacked to be judged again. NULL in a row from before: not recorded.

ALTER TABLE analytics.hits
    ADD COLUMN from_inside boolean,         -- asked for by a page of this site; told for pages and errors only
    ADD COLUMN outdated boolean,            -- the browser is below the documented floor
    ADD COLUMN clock float8,                -- monotonic seconds of the worker, by which the request was admitted
    ADD COLUMN policy text;                 -- version of the policy that gave score and level

ALTER TABLE analytics.sessions ADD COLUMN policy text;

CREATE TABLE analytics.policies (
    version text PRIMARY KEY,               -- 12 hex digits of a hash of the settings
    settings jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    in_force_at timestamptz                 -- when a writer last started with it; NULL: rows were only reclassified by it
);
