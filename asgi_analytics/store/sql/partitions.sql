-- The day partitions of hits.

-- name: make_partitions
SELECT analytics.ensure_partitions(
    (now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + %(ahead)s::integer)

-- name: make_partitions_of_staging
SELECT analytics.ensure_partitions(
    min(time AT TIME ZONE 'UTC')::date, max(time AT TIME ZONE 'UTC')::date) FROM staging

-- name: missing_partitions
SELECT day FROM analytics.lacking_partitions(
    (now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + 1) AS day ORDER BY day
