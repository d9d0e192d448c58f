-- Quotas that workers share: one exchange of one worker is one transaction of a few short statements.

-- name: seen
INSERT INTO analytics.workers AS kept (worker, seen_at, revision) VALUES (%(worker)s, now(), %(revision)s)
ON CONFLICT (worker) DO UPDATE SET seen_at = now(), revision = excluded.revision

-- name: heeded
SELECT worker, revision, extract(epoch FROM clock_timestamp())::float8 FROM analytics.workers
WHERE seen_at > now() - make_interval(secs => %(life)s::float8)

-- name: scarce
SELECT counter, stage, revision FROM analytics.counters WHERE stage > 0 AND revision > %(revision)s::bigint
ORDER BY revision LIMIT %(most)s::integer

-- name: open
INSERT INTO analytics.counters (counter) SELECT unnest(%(counters)s::bytea[]) ON CONFLICT DO NOTHING

-- name: lock
-- Always in the same order, so that workers never wait for each other in a circle.
SELECT counter, stage, revision, state FROM analytics.counters WHERE counter = ANY (%(counters)s::bytea[])
ORDER BY counter FOR UPDATE

-- name: next_revision
-- Held to the end of the transaction: revisions are seen in the order in which they were given.
SELECT nextval('analytics.counter_revisions') FROM pg_advisory_xact_lock(hashtext('analytics.counters'))

-- name: save
UPDATE analytics.counters SET stage = told.stage, revision = told.revision, state = told.state, touched_at = now()
FROM unnest(%(counters)s::bytea[], %(stages)s::smallint[], %(revisions)s::bigint[], %(states)s::jsonb[])
    AS told (counter, stage, revision, state)
WHERE counters.counter = told.counter

-- name: leave
DELETE FROM analytics.workers WHERE worker = %(worker)s

-- name: tidy
WITH gone AS (DELETE FROM analytics.workers WHERE seen_at < now() - interval '1 minute')
-- By then two windows have passed in which nobody used anything, or ten minutes, after which workers let loans go.
DELETE FROM analytics.counters WHERE touched_at < now() - least(interval '2 days', make_interval(secs =>
    60 + 2 * ('x' || lpad(encode(substr(counter, 17), 'hex'), 16, '0'))::bit(64)::bigint))
