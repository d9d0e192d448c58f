-- The temporary tables of a transfer.

-- name: create_staging
CREATE TEMP TABLE IF NOT EXISTS staging (
    -- The types that rows are encoded in: binary COPY takes no other, and what an operator has made of the columns of
    -- hits, INSERT … SELECT converts to.
    id uuid, time timestamptz, page_view boolean, duration_us bigint, bytes_sent bigint, score smallint, level smallint,
    status smallint, first_byte_us bigint, clock float8, inputs smallint, from_inside boolean, exempt boolean,
    numbers bigint, close_code integer, level_before smallint, decision_id uuid, outcome text, method text, path text,
    path_inputs bigint, route text, query text, channel text, source text, utm_source text, utm_medium text,
    utm_campaign text, utm_term text, utm_content text, click_id text, session_id uuid, fingerprint uuid, network uuid,
    site text, address text, country text, region text, city text, asn bigint, organisation text, browser text,
    browser_version text, os text, os_version text, device text, bot_class text, crawler text, language text,
    provisional boolean, outdated boolean, operator text, purpose text, verified text, policy text
) ON COMMIT DELETE ROWS

-- name: create_decided
CREATE TEMP TABLE IF NOT EXISTS decided (
    id uuid, time timestamptz, refused boolean, enforced boolean, level smallint, score smallint, retry_after integer,
    site text, hit_id uuid, fingerprint uuid, network uuid, level_before smallint, detail jsonb
) ON COMMIT DELETE ROWS

-- name: create_begun
CREATE TEMP TABLE IF NOT EXISTS begun (fingerprint uuid, sessions bigint, in_hour bigint) ON COMMIT DELETE ROWS

-- name: create_named
CREATE TEMP TABLE IF NOT EXISTS named (session_id uuid, fingerprint uuid, first_at timestamptz, last_at timestamptz)
ON COMMIT DELETE ROWS

-- name: create_noticed
CREATE TEMP TABLE IF NOT EXISTS noticed (LIKE analytics.incidents INCLUDING DEFAULTS) ON COMMIT DELETE ROWS

-- name: create_refused
CREATE TEMP TABLE IF NOT EXISTS refused (time timestamptz, fingerprint uuid, network uuid, site text)
ON COMMIT DELETE ROWS

-- name: drop_temporary
DROP TABLE pg_temp.staging, pg_temp.decided, pg_temp.begun, pg_temp.named, pg_temp.noticed, pg_temp.refused

-- name: clear_staging
DELETE FROM pg_temp.staging

-- name: columns_of_later_versions
-- Of hits or decisions, with their types: what a later version's journal may name, where it has migrated before us.
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
WHERE attrelid = %(table)s::regclass AND attname = ANY(%(columns)s) AND attnum > 0 AND NOT attisdropped
    AND attname NOT IN (SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %(staged)s::regclass)

-- name: times_in_staging
SELECT min(time)::text, max(time)::text FROM pg_temp.staging

-- name: stored_at
-- The ids of the hits at the times of those in staging: all but always these. OFFSET 0 keeps it a look-up by time, one
-- for each; staging has no statistics. By the first and the last time the planner locks the partitions of these days
-- only: there may be more of them than locks.
SELECT kept.id::text
FROM (SELECT DISTINCT time FROM pg_temp.staging) AS one
CROSS JOIN LATERAL (
    SELECT id FROM analytics.hits
    WHERE hits.time = one.time AND hits.time BETWEEN %(first)s::timestamptz AND %(last)s::timestamptz OFFSET 0
) AS kept
