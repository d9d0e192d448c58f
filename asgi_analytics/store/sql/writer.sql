-- What the writer asks beside the fold: positions, salts, rulings, rows set aside, and what is old.

-- name: end_vanished
-- No time-out of the server ends a COPY whose client is silent, such as behind a proxy that froze and keeps the
-- connection: a position would be locked for ever.
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND usename = session_user AND state = 'active'
    AND wait_event = 'ClientRead' AND query LIKE 'COPY "pg\_temp".%%'
    AND xact_start < pg_catalog.now() - pg_catalog.make_interval(secs => %(since)s::float8)

-- name: catch_up
-- What is not owned is left to who owns it.
SELECT pg_catalog.setval(name::regclass, newest)
FROM (
    SELECT 'analytics.ruling_revisions' AS name, (SELECT max(revision) FROM analytics.rulings) AS newest
    UNION ALL
    SELECT pg_get_serial_sequence('analytics.quarantine', 'id'), (SELECT max(id) FROM analytics.quarantine)
) AS counted
WHERE CASE WHEN has_sequence_privilege(name, 'UPDATE') AND has_sequence_privilege(name, 'USAGE, SELECT')
    THEN newest > coalesce(pg_sequence_last_value(name::regclass), 0) END

-- name: register_journal
-- In doubt, for a position may have been there, and been deleted.
INSERT INTO analytics.positions (journal, host, doubted) VALUES (%(journal)s, %(host)s, %(now)s::uuid)
ON CONFLICT (journal) DO NOTHING

-- name: read_position
SELECT segment::integer, position::bigint, doubted::uuid, rows::bigint + quarantined::bigint > 0
FROM analytics.positions WHERE journal = %(journal)s

-- name: lock_position
SELECT segment::integer, position::bigint FROM analytics.positions WHERE journal = %(journal)s FOR UPDATE

-- name: advance_position
UPDATE analytics.positions
SET segment = %(segment)s, position = %(position)s, rows = rows + %(rows)s,
    quarantined = quarantined + %(quarantined)s, updated_at = now(),
    doubted = CASE WHEN NOT %(settled)s::boolean THEN doubted END
WHERE journal = %(journal)s
RETURNING segment::integer, position::bigint

-- name: hurry
-- Until the end of the transaction: what gets in at all does in a fraction of what a statement may take.
SELECT pg_catalog.set_config('statement_timeout', greatest(1, setting::integer / 20)::text, true)
FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'

-- name: doubt_position
UPDATE analytics.positions SET segment = %(segment)s, position = %(position)s, doubted = %(now)s::uuid
WHERE journal = %(journal)s

-- name: quarantine_row
INSERT INTO analytics.quarantine (journal, segment, position, kind, columns, raw, sqlstate, error)
SELECT %(journal)s, %(segment)s, %(position)s, %(kind)s, %(columns)s, %(raw)s, %(sqlstate)s, %(error)s
WHERE NOT %(doubtful)s::boolean OR NOT EXISTS (
    SELECT FROM analytics.quarantine AS known WHERE known.journal = %(journal)s::uuid
        AND known.segment = %(segment)s::integer AND known.position = %(position)s::bigint)

-- name: hold_schema
-- As writing does, for as long as the transaction: nobody changes these tables meanwhile.
LOCK TABLE ONLY analytics.hits, analytics.sessions, analytics.fingerprints, analytics.refusals, analytics.decisions,
    analytics.incidents, analytics.networks IN ROW EXCLUSIVE MODE

-- name: partitions_of
-- Those that rows of some days (since 2000) or of now go into, the default one, and those by another key than the time.
-- 0: with the partition's own number, its bounds are not told before who works on it is done.
WITH moments AS (
    SELECT timestamptz '2000-01-01 00:00:00+00' + make_interval(days => day) AS began
    FROM unnest(%(days)s::integer[]) AS day
    UNION SELECT now()
)
SELECT nspname, relname
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
LEFT JOIN LATERAL regexp_match(pg_get_expr(relpartbound, 0),
    'FROM \((?:''([^'']+)''|\w+)\) TO \((?:''([^'']+)''|\w+)\)') AS bound ON true
WHERE inhparent = 'analytics.hits'::regclass AND (bound IS NULL OR EXISTS (
    SELECT FROM moments WHERE tstzrange(bound[1]::timestamptz, bound[2]::timestamptz)
        && tstzrange(began, began + interval '1 day')))

-- name: probe
-- Rows as large as they get and as plain, with all columns, rolled back: where these are refused, the schema is wrong
-- and not the row at hand.
WITH hit AS (
    INSERT INTO analytics.hits (id, time, page_view, duration_us, bytes_sent, score, level, status, first_byte_us,
        clock, inputs, from_inside, exempt, numbers, close_code, level_before, decision_id, outcome, method, path,
        path_inputs, route, query, channel, source, utm_source, utm_medium, utm_campaign, utm_term, utm_content,
        click_id, session_id, fingerprint, network, site, address, country, region, city, asn, organisation, browser,
        browser_version, os, os_version, device, bot_class, crawler, language, provisional, outdated, operator, purpose,
        verified, policy)
    SELECT gen_random_uuid(), now(), true, 1::bigint << 62, 1::bigint << 62, 32767, 3, 599, 1::bigint << 62,
        1e9, 32767, true, true, 1::bigint << 62, 65535, 3, gen_random_uuid(), 'complete', left(wide, 16), wide,
        1::bigint << 62, left(wide, 256), wide, left(wide, 32), left(wide, 256), left(wide, 256), left(wide, 256),
        left(wide, 256), left(wide, 256), left(wide, 256), left(wide, 32), gen_random_uuid(), gen_random_uuid(),
        gen_random_uuid(), left(wide, 100), left(wide, 64), 'XX', left(wide, 64), left(wide, 128), 4294967295,
        left(wide, 256), left(wide, 64), left(wide, 32), left(wide, 64), left(wide, 32), left(wide, 16), left(wide, 32),
        left(wide, 64), left(wide, 35), true, true, left(wide, 64), left(wide, 32), 'unverifiable', '0123456789ab'
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL SELECT gen_random_uuid(), now(), false, 0, 0, 0, 0, 200, NULL, 0.0, 0, NULL, NULL, NULL, NULL, NULL, NULL,
        'complete', 'GET', '/', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        'default', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'other', NULL, NULL, NULL, false, false,
        NULL, NULL, NULL, NULL
), session AS (
    INSERT INTO analytics.sessions (id, site, fingerprint, started_at, last_seen_at, hits, page_views, errors, refusals,
        bytes_sent, entry_at, entry_path, exit_at, exit_path, score, level, channel, source, utm_source, utm_medium,
        utm_campaign, utm_term, utm_content, click_id, country, region, city, asn, organisation, browser,
        browser_version, os, os_version, device, bot_class, crawler, operator, purpose, verified, language, policy)
    SELECT gen_random_uuid(), left(wide, 100), gen_random_uuid(), now(), now(), 2147483647, 2147483647, 2147483647,
        2147483647, 1::bigint << 62, now(), wide, now(), wide, 32767, 3, left(wide, 32), left(wide, 256),
        left(wide, 256), left(wide, 256), left(wide, 256), left(wide, 256), left(wide, 256), left(wide, 32), 'XX',
        left(wide, 64), left(wide, 128), 4294967295, left(wide, 256), left(wide, 64), left(wide, 32), left(wide, 64),
        left(wide, 32), left(wide, 16), left(wide, 32), left(wide, 64), left(wide, 64), left(wide, 32), 'unverifiable',
        left(wide, 35), '0123456789ab'
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL SELECT gen_random_uuid(), 'default', gen_random_uuid(), now(), now(), 1, 0, 0, 0, 0, now(), NULL, NULL,
        NULL, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NULL, 'other', NULL, NULL, NULL, NULL, NULL, NULL, NULL
), visitor AS (
    INSERT INTO analytics.fingerprints (fingerprint, site, network, first_seen_at, last_seen_at, sessions, hits,
        page_views, refusals, charges, minute_at, minute_charges, minute_page_views, peak_per_minute, busy_minutes,
        hour_at, hour_page_views, hour_sessions, score, level, level_changed_at, reputation, reputation_at, flagged,
        flag_reason, flagged_at, abuse_incidents, last_abuse_at, pardoned_at, journal, seen, remote)
    SELECT gen_random_uuid(), left(wide, 100), gen_random_uuid(), now(), now(), 2147483647, 1::bigint << 62,
        1::bigint << 62, 1::bigint << 62, 1::bigint << 62, now(), 2147483647, 2147483647, 2147483647, 2147483647,
        now(), 2147483647, 2147483647, 32767, 3, now(), 50.0::float8, now(), true, 'sustained_velocity_10rpm_1hr',
        now(), 2147483647, now(), now(), gen_random_uuid(), jsonb_build_object(gen_random_uuid(), 1::bigint << 62),
        2147483647
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL SELECT gen_random_uuid(), 'default', gen_random_uuid(), now(), now(), 0, 1, 0, 0, 0, now(), 0, 0, 0, 0,
        now(), 0, 0, 0, 0, NULL, 50.0, NULL, false, NULL, NULL, 0, NULL, NULL, gen_random_uuid(), NULL, 0
), counted AS (
    INSERT INTO analytics.refusals (minute, site, fingerprint, network, refusals)
    SELECT now(), left(wide, 100), gen_random_uuid(), gen_random_uuid(), 1::bigint << 62
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL SELECT now(), 'default', gen_random_uuid(), gen_random_uuid(), 1
)
INSERT INTO analytics.decisions (id, time, site, hit_id, fingerprint, network, refused, enforced, level, level_before,
    score, retry_after, detail)
SELECT gen_random_uuid(), now(), left(wide, 100), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), true, true,
    3, 3, 32767, 2147483647, jsonb_build_object('reasons', jsonb_build_array(wide))
FROM repeat(chr(128512), 1024) AS wide
UNION ALL SELECT gen_random_uuid(), now(), 'default', gen_random_uuid(), NULL, NULL, true, true, 0, NULL, 0, 1, '{}'

-- name: probe_incidents
-- One of the widest such row and two common ones.
INSERT INTO analytics.incidents (kind, evidence, time, site, fingerprint, network, points, pardoned)
SELECT * FROM (
    SELECT 'sustained_velocity_10rpm_1hr', gen_random_uuid() || ' minutes from ' || now() || ', 1000', now(),
        left(wide, 100), gen_random_uuid(), gen_random_uuid(), 99, false
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL
    SELECT kind, gen_random_uuid()::text, now(), 'default', gen_random_uuid(), gen_random_uuid(), points, false
    FROM (VALUES ('behavioural_score', 10), ('blocked', 15)) AS common (kind, points)
) AS made OFFSET %(number)s::integer LIMIT 1

-- name: probe_networks
-- Likewise.
INSERT INTO analytics.networks (network, site, first_incident_at, last_incident_at, incidents, reputation,
    reputation_at)
SELECT * FROM (
    SELECT gen_random_uuid(), left(wide, 100), now(), now(), 2147483647, 50.0::float8, now()
    FROM repeat(chr(128512), 1024) AS wide
    UNION ALL
    SELECT gen_random_uuid(), 'default', now(), now(), incidents, 50.0 - 2.0 * incidents, now()
    FROM (VALUES (1), (20)) AS common (incidents)
) AS made OFFSET %(number)s::integer LIMIT 1

-- name: lock_salts
SELECT pg_advisory_xact_lock(hashtext('analytics.salts'))

-- name: offer_salt
INSERT INTO analytics.salts (period, key) VALUES (%(period)s::date, %(key)s) ON CONFLICT (period) DO NOTHING

-- name: forget_salts
-- But for those that are asked for: a worker whose clock is behind would never agree with others, and ask each round.
DELETE FROM analytics.salts
WHERE period < (now() AT TIME ZONE 'UTC')::date - 1 AND period <> ALL (%(periods)s::date[])

-- name: read_salts
SELECT period, key FROM analytics.salts WHERE period = ANY (%(periods)s::date[])

-- name: standing_rulings
-- Times from now on, for the clocks of workers may be wrong.
SELECT id, revision, kind, fingerprint, size, prefix, network, key, reason, made_by,
    extract(epoch FROM made_at)::float8 - extract(epoch FROM now())::float8 AS made_at,
    extract(epoch FROM until)::float8 - extract(epoch FROM now())::float8 AS until, false AS lifted
FROM (
    SELECT * FROM analytics.rulings WHERE lifted_at IS NULL AND coalesce(until, 'infinity') > now()
    ORDER BY kind <> 'allow', revision DESC LIMIT %(most)s::integer
) AS standing
ORDER BY revision

-- name: changed_rulings
SELECT id, revision, kind, fingerprint, size, prefix, network, key, reason, made_by,
    extract(epoch FROM made_at)::float8 - extract(epoch FROM now())::float8 AS made_at,
    extract(epoch FROM until)::float8 - extract(epoch FROM now())::float8 AS until, lifted_at IS NOT NULL AS lifted
FROM analytics.rulings WHERE revision > %(since)s::bigint ORDER BY revision LIMIT %(most)s::integer

-- name: server_time
SELECT extract(epoch FROM now())::float8

-- name: expire_flags
-- But of who is locked, by a transfer or an operator: it is due again in an hour.
UPDATE analytics.fingerprints SET flagged = false, flag_reason = NULL, flagged_at = NULL
WHERE fingerprint = ANY (ARRAY(
    SELECT fingerprint FROM analytics.fingerprints
    WHERE flagged AND flagged_at < now() - interval '7 days'
        AND coalesce(reputation_at, '-infinity') < now() - interval '7 days'
    FOR UPDATE SKIP LOCKED))

-- name: forget_incidents
-- A session lasts a day at most: after a month nothing can name the evidence again.
DELETE FROM analytics.incidents WHERE time < now() - interval '30 days'

-- name: forget_networks
DELETE FROM analytics.networks WHERE network = ANY (ARRAY(
    SELECT network FROM analytics.networks WHERE last_incident_at < now() - interval '3 days' FOR UPDATE SKIP LOCKED))

-- name: forget_rulings
-- Lifted ones stay until their end: a worker that was cut off for long still has to learn that they are.
DELETE FROM analytics.rulings WHERE coalesce(until, lifted_at + interval '30 days') < now() - interval '1 day'

-- name: keep_positions
-- Of workers that live, however long nothing came: what they still hold must not be sent again.
UPDATE analytics.positions SET updated_at = now()
WHERE journal = ANY (%(journals)s) AND updated_at < now() - interval '1 day'

-- name: forget_positions
-- Of workers that have ended. What a journal of them still has is looked for by id.
DELETE FROM analytics.positions WHERE updated_at < now() - interval '90 days'
