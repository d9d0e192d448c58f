-- What is older than it is to be kept. By the server's clock: a worker's that leapt must not empty the tables.

-- name: begin_retention
-- Who deletes does so alone, of all workers; who counts keeps nobody from it. The bounds of partitions are text, as the
-- first two settings have it; who reads hits for hours is neither waited for nor made to wait.
SELECT set_config('datestyle', 'ISO', true), set_config('timezone', 'UTC', true), set_config('lock_timeout', '2s', true),
    CASE WHEN NOT %(deletes)s::boolean THEN NULL
        WHEN %(waits)s::boolean THEN pg_advisory_xact_lock(hashtext('analytics.retention')) IS NOT NULL
        ELSE pg_try_advisory_xact_lock(hashtext('analytics.retention')) END

-- name: outdated_partitions
SELECT nspname, relname FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace,
    regexp_match(pg_get_expr(relpartbound, inhrelid), 'TO \(''([^'']+)''\)') AS bound
WHERE inhparent = 'analytics.hits'::regclass AND bound[1]::timestamptz <= now() - %(kept)s::interval
ORDER BY bound[1]::timestamptz

-- name: outdated_rows
SELECT (SELECT count(*) FROM analytics.hits WHERE time < now() - %(kept)s::interval) AS hits,
    (SELECT count(*) FROM analytics.sessions
        WHERE started_at < now() - %(kept)s::interval AND last_seen_at < now() - %(kept)s::interval) AS sessions,
    (SELECT count(*) FROM analytics.fingerprints
        WHERE first_seen_at < now() - %(kept)s::interval AND last_seen_at < now() - %(kept)s::interval) AS fingerprints,
    (SELECT count(*) FROM analytics.decisions WHERE time < now() - %(kept)s::interval) AS decisions,
    (SELECT count(*) FROM analytics.refusals WHERE minute < now() - %(kept)s::interval) AS refusals,
    (SELECT count(*) FROM analytics.quarantine WHERE created_at < now() - %(kept)s::interval) AS quarantine

-- name: forget_hits
-- The oldest of the default partition, and of one that is not outdated as a whole: by time, which has an index.
DELETE FROM analytics.hits WHERE time < now() - %(kept)s::interval AND time <= coalesce((
    SELECT time FROM analytics.hits WHERE time < now() - %(kept)s::interval ORDER BY time OFFSET %(most)s LIMIT 1),
    'infinity')

-- name: forget_sessions
DELETE FROM analytics.sessions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.sessions
    WHERE started_at < now() - %(kept)s::interval AND last_seen_at < now() - %(kept)s::interval
    LIMIT %(most)s FOR UPDATE SKIP LOCKED))

-- name: forget_fingerprints
DELETE FROM analytics.fingerprints WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.fingerprints
    WHERE first_seen_at < now() - %(kept)s::interval AND last_seen_at < now() - %(kept)s::interval
    LIMIT %(most)s FOR UPDATE SKIP LOCKED))

-- name: forget_decisions
DELETE FROM analytics.decisions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.decisions WHERE time < now() - %(kept)s::interval
    LIMIT %(most)s FOR UPDATE SKIP LOCKED))

-- name: forget_refusals
DELETE FROM analytics.refusals WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.refusals WHERE minute < now() - %(kept)s::interval
    LIMIT %(most)s FOR UPDATE SKIP LOCKED))

-- name: forget_quarantine
DELETE FROM analytics.quarantine WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.quarantine WHERE created_at < now() - %(kept)s::interval
    LIMIT %(most)s FOR UPDATE SKIP LOCKED))
