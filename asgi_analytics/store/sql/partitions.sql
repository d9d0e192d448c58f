-- The day partitions of hits.

-- name: make_partitions
-- Where others make some, such as pg_partman, days that they have yet to come to are left to them.
SELECT analytics.ensure_partitions(
    (now() AT TIME ZONE 'UTC')::date - 1,
    (now() AT TIME ZONE 'UTC')::date + CASE WHEN EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'analytics.hits'::regclass AND relname !~ '^hits_\d{8}$'
        AND pg_get_expr(relpartbound, inhrelid) <> 'DEFAULT'
    ) THEN 1 ELSE %(ahead)s::integer END)

-- name: make_partitions_of_staging
SELECT analytics.ensure_partitions(
    min(time AT TIME ZONE 'UTC')::date, max(time AT TIME ZONE 'UTC')::date) FROM staging

-- name: missing_partitions
SELECT day FROM analytics.lacking_partitions(
    (now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + 1) AS day ORDER BY day
