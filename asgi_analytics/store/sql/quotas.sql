-- Quotas that workers share.

-- name: exchange
WITH found AS MATERIALIZED (
    -- In a backup that was restored, or on a standby that was behind, revisions are lower: the worker knows of none.
    SELECT analytics.exchange_quotas(%(worker)s::uuid, %(site)s::text, CASE WHEN %(revision)s::bigint <= coalesce(
            pg_catalog.pg_sequence_last_value('analytics.counter_revisions'), 0) THEN %(revision)s::bigint ELSE 0 END,
        %(life)s::float8, %(most)s::integer, %(asks)s::jsonb) AS answer)
-- And how many seconds ago it was told what is scarce; what this exchange tells has another revision in the snapshot.
SELECT answer, (SELECT coalesce(jsonb_object_agg(one ->> 0, extract(epoch FROM now()) - coalesce(
        (SELECT told_at FROM analytics.counters WHERE counter = decode(one ->> 0, 'hex')
            AND revision = (one ->> 2)::bigint), extract(epoch FROM now()))), '{}')
    FROM jsonb_array_elements(answer -> 'scarce') AS one)
FROM found

-- name: is_full
-- Whether this connection is the last one that we, or anybody without privileges, can get.
SELECT bool_or(
    active.total >= current_setting('max_connections')::integer - CASE WHEN NOT role.rolsuper THEN
        current_setting('superuser_reserved_connections')::integer
        + coalesce(nullif(current_setting('reserved_connections', true), '')::integer, 0) ELSE 0 END
    OR (role.rolconnlimit BETWEEN 0 AND active.of_role AND NOT role.rolsuper)
    OR (known.datconnlimit BETWEEN 0 AND active.of_database AND NOT role.rolsuper))
FROM pg_catalog.pg_roles AS role, pg_catalog.pg_database AS known, (
    SELECT count(*) AS total, count(*) FILTER (WHERE usename = session_user) AS of_role,
        count(*) FILTER (WHERE datname = current_database()) AS of_database
    FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL
) AS active
WHERE role.rolname = session_user AND known.datname = current_database()

-- name: leave
DELETE FROM analytics.workers WHERE worker = %(worker)s

-- name: forget
-- Of many a part, and none that an exchange has in hand: it is over soon, and nobody waits for it.
WITH gone AS (DELETE FROM analytics.workers WHERE seen_at < now() - interval '1 minute')
DELETE FROM analytics.counters WHERE ctid = ANY (ARRAY(
    -- By then two windows have passed in which nobody used anything.
    SELECT ctid FROM analytics.counters WHERE touched_at < now() - make_interval(secs =>
        60 + 2 * ('x' || lpad(encode(substr(counter, 17), 'hex'), 16, '0'))::bit(64)::bigint)
    LIMIT 10000 FOR UPDATE SKIP LOCKED))
