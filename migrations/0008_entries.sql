-- A session's hits arrive in any order, over several workers. NULL in a session from before.

ALTER TABLE analytics.sessions
    ADD COLUMN entry_at timestamptz,        -- of the first page view, else of the first hit: what the referral is of
    ADD COLUMN exit_at timestamptz;         -- of the last page view, NULL without one
