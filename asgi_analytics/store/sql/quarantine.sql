-- What the command `quarantine` asks and does.

-- name: quarantined
-- Without what cannot be read, of which there may be a megabyte in each row.
SELECT id, created_at, journal, segment, position, kind, columns, CASE WHEN kind = 'frame' THEN '' ELSE raw END AS raw,
    length(raw) AS size, sqlstate, error
FROM analytics.quarantine
WHERE id > %(after)s::bigint AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
ORDER BY id LIMIT %(most)s

-- name: take
DELETE FROM analytics.quarantine WHERE id = %(id)s RETURNING id

-- name: purge
DELETE FROM analytics.quarantine
WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
    AND (%(older)s::interval IS NULL OR created_at < now() - %(older)s::interval)
