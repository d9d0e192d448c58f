-- What the command line reads. Nothing here writes.

-- name: latest_hits
-- Those of a worker whose clock was ahead fill up what is left: they would hide all others until their time comes.
-- Those before `since` that ended after it are looked for among the last 10,000: a stream has the time of its beginning.
WITH present AS (
    SELECT id, time, method, path, status, country, coalesce(crawler, browser) AS agent, fingerprint, level, score,
        outcome, duration_us::bigint, decision_id, site
    FROM analytics.hits
    WHERE time >= %(since)s::timestamptz AND time <= now() + interval '1 minute'
        AND (%(site)s::text IS NULL OR site = %(site)s::text)
    ORDER BY time DESC, id DESC LIMIT %(most)s::integer
), ended AS (
    SELECT * FROM (
        SELECT id, time, method, path, status, country, coalesce(crawler, browser) AS agent, fingerprint, level, score,
            outcome, duration_us::bigint, decision_id, site
        FROM analytics.hits
        WHERE time < %(since)s::timestamptz AND time > %(since)s::timestamptz - interval '1 day'
        ORDER BY time DESC LIMIT 10000
    ) AS before
    WHERE duration_us > 1000000 AND duration_us >= extract(epoch FROM %(since)s::timestamptz - time)::float8 * 1e6
        AND (%(site)s::text IS NULL OR site = %(site)s::text)
), ahead AS (
    SELECT id, time, method, path, status, country, coalesce(crawler, browser) AS agent, fingerprint, level, score,
        outcome, duration_us::bigint, decision_id, site
    FROM analytics.hits
    WHERE time >= %(since)s::timestamptz AND time > now() + interval '1 minute'
        AND (%(site)s::text IS NULL OR site = %(site)s::text)
    ORDER BY time DESC, id DESC LIMIT %(most)s::integer - (SELECT count(*) FROM present)
)
SELECT * FROM present UNION ALL SELECT * FROM ahead
UNION ALL SELECT * FROM ended
ORDER BY time DESC, id DESC

-- name: decision
SELECT decisions.id, decisions.time, decisions.refused, decisions.enforced, decisions.level, decisions.level_before,
    decisions.score, decisions.retry_after, decisions.detail, decisions.fingerprint, hits.method, hits.path,
    hits.status, hits.outcome, hits.country, coalesce(hits.crawler, hits.browser) AS agent, hits.os,
    (SELECT coalesce(sum(refusals), 0)::bigint FROM analytics.refusals
        WHERE minute = date_trunc('minute', decisions.time) AND refusals.site = decisions.site
        AND refusals.fingerprint = decisions.fingerprint) AS counted
FROM analytics.decisions
LEFT JOIN analytics.hits ON hits.id = decisions.hit_id AND hits.time = decisions.time  -- the time finds partition and row
WHERE decisions.id = %(id)s::uuid

-- name: totals
SELECT coalesce(sum(rows), 0)::bigint AS written, count(*) AS journals, max(updated_at) AS updated_at,
    (SELECT count(*) FROM analytics.quarantine) AS quarantined,
    (SELECT error FROM analytics.quarantine ORDER BY id DESC LIMIT 1) AS last_error,
    (SELECT count(*) FROM analytics.human_sessions
        WHERE started_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
        AND started_at <= now() + interval '1 minute') AS human_sessions
FROM analytics.positions

-- name: count_quarantined
SELECT count(*) FROM analytics.quarantine

-- name: last_hour
-- Clocks of workers may differ from the server's by a minute; what is more is of the future, and told apart.
SELECT count(*) AS hits, count(*) FILTER (WHERE time > now() - interval '1 minute') AS last_minute,
    count(*) FILTER (WHERE outcome = 'refused') AS refused,
    count(*) FILTER (WHERE level = 0) AS normal, count(*) FILTER (WHERE level = 1) AS warning,
    count(*) FILTER (WHERE level = 2) AS severe, count(*) FILTER (WHERE level = 3) AS blocked,
    (SELECT coalesce(sum(refusals), 0)::bigint FROM analytics.refusals WHERE minute > now() - interval '1 hour') AS counted,
    (SELECT count(*) FROM analytics.hits WHERE time > now() + interval '1 minute') AS ahead,
    (SELECT max(time) FROM analytics.hits WHERE time > now() + interval '1 minute') AS furthest
FROM analytics.hits WHERE time > now() - interval '1 hour' AND time <= now() + interval '1 minute'

-- name: positions
SELECT journal, host, segment, position, rows, quarantined, extract(epoch FROM now() - updated_at)::float8 AS age
FROM analytics.positions
ORDER BY journal = ANY(%(journals)s::uuid[]) DESC, updated_at DESC, journal LIMIT %(most)s::integer

-- name: summary
WITH visits AS (
    SELECT session_id, min(fingerprint::text) AS fingerprint, max(level) AS level, count(*) AS hits,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals,
        coalesce(max(bot_class), CASE
            WHEN max(score) >= 50 THEN 'behavioural bot'
            WHEN max(browser) IS NULL THEN 'unknown program'
            ELSE 'no bot'
        END) AS class
    FROM analytics.hits
    WHERE time >= %(since)s::timestamptz AND site = %(site)s::text AND session_id IS NOT NULL GROUP BY session_id
)
SELECT class, count(DISTINCT fingerprint) AS visitors, count(*) AS sessions, sum(hits)::bigint AS hits,
    sum(refusals)::bigint AS refusals, count(*) FILTER (WHERE level = 1) AS warning,
    count(*) FILTER (WHERE level = 2) AS severe, count(*) FILTER (WHERE level = 3) AS blocked
FROM visits GROUP BY class ORDER BY sum(hits) DESC, class

-- name: count_since
SELECT count(*) FROM analytics.hits WHERE time >= %(since)s::timestamptz AND site = %(site)s::text

-- name: count_answered
-- Of what is counted by the minute, all of the one that the moment is in.
SELECT count(*) + (SELECT coalesce(sum(refusals), 0)::bigint FROM analytics.refusals
    WHERE minute >= date_trunc('minute', %(since)s::timestamptz) AND site = %(site)s::text)
FROM analytics.hits WHERE time >= %(since)s::timestamptz AND site = %(site)s::text

-- name: identity
-- Of the cluster and of the database in it: another name or address, a socket, a promoted standby make no difference;
-- what was dumped and restored is another one.
SELECT system_identifier || ' ' || pg_database.oid
FROM pg_control_system(), pg_database WHERE datname = current_database()

-- name: server
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS number,
    current_user::text AS username, current_database()::text AS database,
    current_setting('server_encoding') AS encoding,
    current_setting('transaction_read_only') = 'on' AS read_only, pg_is_in_recovery() AS standby,
    extract(epoch FROM clock_timestamp())::float8 AS now,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    has_database_privilege(current_database(), 'TEMPORARY') AS may_stage,
    coalesce(has_schema_privilege(to_regnamespace('analytics'), 'USAGE'), true) AS may_use

-- name: lock_holders
-- A user that may not see the holder's activity learns its process only; a prepared transaction has none. Whose
-- transaction stands still may have changed rows that a transfer changes, too.
SELECT format('%%s %%s %%s', locks.virtualtransaction, locks.relation, held.xact_start) AS lock,
    format('%%s on %%s, held by %%s', locks.mode, locks.relation::regclass, coalesce('process ' || locks.pid, (
        SELECT format('the prepared transaction %%L (ROLLBACK PREPARED)', gid) FROM pg_prepared_xacts
        JOIN pg_locks AS own ON own.transactionid = transaction
        WHERE own.pid IS NULL AND own.virtualtransaction = locks.virtualtransaction)))
    || coalesce(' (' || nullif(held.application_name, '') || ')', '')
    || coalesce(' for ' || extract(epoch FROM now() - held.xact_start)::integer || ' s', '') AS told
FROM pg_locks AS locks
JOIN pg_class AS known ON known.oid = locks.relation AND known.relnamespace = to_regnamespace('analytics')
LEFT JOIN pg_stat_activity AS held ON held.pid = locks.pid
WHERE locks.granted AND known.relkind IN ('r', 'p') AND locks.pid IS DISTINCT FROM pg_backend_pid()
    AND (locks.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        OR (locks.mode IN ('RowShareLock', 'RowExclusiveLock')
            AND known.relname IN ('positions', 'sessions', 'fingerprints')
            AND coalesce(held.application_name, '') NOT LIKE 'asgi-analytics%%'
            AND coalesce(held.state, 'idle in transaction') LIKE 'idle in transaction%%'))
    -- A copy of this database has tables of the same numbers.
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 2 LIMIT 5

-- name: moment
SELECT pg_sleep(0.5)

-- name: missing_objects
SELECT 'analytics.' || wanted.name
FROM unnest('{cases, counter_revisions, counters, decisions, fingerprints, hits, human_hits, human_sessions, incidents,
    migrations, networks, policies, positions, quarantine, refusals, ruling_revisions, rulings, salts, sessions,
    workers}'::text[]) AS wanted (name)
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_class WHERE relname = wanted.name AND relnamespace = to_regnamespace('analytics'))
UNION ALL
SELECT 'analytics.' || wanted.name || '()'
FROM unnest('{decayed, ensure_partitions, exchange_quotas, lacking_partitions, number_ruling}'::text[]) AS wanted (name)
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_proc WHERE proname = wanted.name AND pronamespace = to_regnamespace('analytics'))
ORDER BY 1

-- name: missing_privileges
-- Tables are looked up by name without touching them: a missing privilege is an answer here, not an error.
SELECT privilege || ' on analytics.' || wanted.name
FROM (VALUES ('hits', 'INSERT'), ('hits', 'SELECT'), ('sessions', 'SELECT'), ('sessions', 'INSERT'), ('sessions', 'UPDATE'),
    ('fingerprints', 'SELECT'), ('fingerprints', 'INSERT'), ('fingerprints', 'UPDATE'), ('decisions', 'INSERT'),
    ('salts', 'SELECT'), ('salts', 'INSERT'), ('salts', 'DELETE'), ('positions', 'SELECT'), ('positions', 'INSERT'),
    ('positions', 'UPDATE'), ('positions', 'DELETE'), ('quarantine', 'SELECT'), ('quarantine', 'INSERT'),
    ('decisions', 'SELECT'), ('incidents', 'SELECT'), ('incidents', 'INSERT'), ('incidents', 'DELETE'),
    ('networks', 'SELECT'), ('networks', 'INSERT'), ('networks', 'UPDATE'), ('networks', 'DELETE'),
    ('rulings', 'SELECT'), ('rulings', 'INSERT'), ('rulings', 'DELETE'), ('policies', 'SELECT'),
    ('policies', 'INSERT'), ('policies', 'UPDATE'), ('refusals', 'INSERT'), ('refusals', 'SELECT'), ('refusals', 'UPDATE'), ('migrations', 'SELECT'),
    ('workers', 'SELECT'), ('workers', 'INSERT'), ('workers', 'UPDATE'), ('workers', 'DELETE'), ('counters', 'SELECT'),
    ('counters', 'INSERT'), ('counters', 'UPDATE'), ('counters', 'DELETE')) AS wanted (name, privilege)
JOIN pg_catalog.pg_class AS known ON known.relname = wanted.name AND known.relnamespace = to_regnamespace('analytics')
WHERE NOT has_table_privilege(known.oid, privilege)
UNION ALL
SELECT 'USAGE on sequence analytics.' || relname FROM pg_catalog.pg_class
WHERE relname = 'counter_revisions' AND relnamespace = to_regnamespace('analytics')
    AND NOT has_sequence_privilege(oid, 'USAGE')
UNION ALL
SELECT 'EXECUTE on function analytics.' || proname FROM pg_catalog.pg_proc
WHERE pronamespace = to_regnamespace('analytics') AND NOT has_function_privilege(oid, 'EXECUTE')
UNION ALL
-- Partitions are made with the rights of who owns the function.
SELECT format('ownership of analytics.hits for %%s, the owner of analytics.ensure_partitions', maker.proowner::regrole)
FROM pg_catalog.pg_class AS known
JOIN pg_catalog.pg_proc AS maker ON maker.proname = 'ensure_partitions' AND maker.pronamespace = known.relnamespace
WHERE known.relname = 'hits' AND known.relnamespace = to_regnamespace('analytics')
    AND NOT pg_has_role(maker.proowner, known.relowner, 'USAGE')
