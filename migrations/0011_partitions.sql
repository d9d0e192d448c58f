-- Partitions of hits that are not ours, an operator's or pg_partman's, are kept to: a day that one of them covers, if in
-- part only, is not made again, and the default partition is the one that there is, whatever its name.

CREATE FUNCTION analytics.lacking_partitions(first date, last date) RETURNS SETOF date
LANGUAGE plpgsql STABLE SECURITY DEFINER
-- What the bounds of a partition look like depends on these two.
SET datestyle = 'ISO' SET timezone = 'UTC' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day date;
    rest regclass;
    held boolean := false;
BEGIN
    SELECT nullif(partdefid, 0) INTO rest FROM pg_partitioned_table
    WHERE partrelid = 'analytics.hits'::regclass AND partstrat = 'r';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR day IN
        WITH covered AS MATERIALIZED (
            -- No text for MINVALUE and MAXVALUE: to a range that is without end.
            SELECT tstzrange(bound[1]::timestamptz, bound[2]::timestamptz) AS period
            FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid,
                regexp_match(pg_get_expr(relpartbound, inhrelid),
                    'FROM \((?:''([^'']+)''|\w+)\) TO \((?:''([^'']+)''|\w+)\)') AS bound
            WHERE inhparent = 'analytics.hits'::regclass AND bound IS NOT NULL
        )
        SELECT wanted.day::date FROM generate_series(first, last, interval '1 day') AS wanted (day)
        WHERE NOT EXISTS (
            SELECT FROM covered WHERE period && tstzrange(wanted.day, wanted.day + interval '1 day'))
        AND NOT EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = 'analytics'::regnamespace AND relname = 'hits_' || to_char(wanted.day, 'YYYYMMDD'))
        ORDER BY 1
    LOOP
        IF rest IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE time >= $1 AND time < $2)', rest)
            INTO held USING day::timestamptz, (day + 1)::timestamptz;
        END IF;
        IF NOT held THEN
            RETURN NEXT day;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION analytics.lacking_partitions IS
    'Days of the period that no partition covers and the default one has no rows of';

-- With the rights of the schema's owner: workers need no more than to read and write.
CREATE OR REPLACE FUNCTION analytics.ensure_partitions(first date, last date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day date;
    made integer := 0;
BEGIN
    -- Several workers come here at once, at midnight and when they start. Before the first look: it locks the default
    -- partition, which who makes another has to himself.
    PERFORM pg_advisory_xact_lock(hashtext('analytics.ensure_partitions'));
    FOR day IN SELECT analytics.lacking_partitions(first, last) LOOP
        BEGIN
            EXECUTE format(
                'CREATE TABLE analytics.%I PARTITION OF analytics.hits FOR VALUES FROM (%L) TO (%L)',
                'hits_' || to_char(day, 'YYYYMMDD'), day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
            made := made + 1;
        EXCEPTION WHEN OTHERS THEN
            -- Refused for good: by an event trigger, for a privilege, for bounds of another kind. The default partition
            -- takes the rows; where there is none, they wait.
            IF left(SQLSTATE, 2) NOT IN ('0A', '23', '42', 'P0') THEN
                RAISE;
            END IF;
            RAISE WARNING 'no partition of analytics.hits for %: % (SQLSTATE %)', day, SQLERRM, SQLSTATE;
        END;
    END LOOP;
    RETURN made;
END
$$;
