-- Quotas that workers share.

-- name: exchange
SELECT analytics.exchange_quotas(%(worker)s::uuid, %(site)s::text, %(revision)s::bigint, %(life)s::float8,
    %(most)s::integer, %(asks)s::jsonb)

-- name: leave
DELETE FROM analytics.workers WHERE worker = %(worker)s

-- name: forget
WITH gone AS (DELETE FROM analytics.workers WHERE seen_at < now() - interval '1 minute')
-- By then two windows have passed in which nobody used anything.
DELETE FROM analytics.counters WHERE touched_at < now() - make_interval(secs =>
    60 + 2 * ('x' || lpad(encode(substr(counter, 17), 'hex'), 16, '0'))::bit(64)::bigint)
