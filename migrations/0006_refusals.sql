-- Refusals past a rate (README, "What is stored"): one row for a visitor and minute, however many there were.

CREATE TABLE analytics.refusals (
    minute timestamptz NOT NULL,
    site text NOT NULL,
    fingerprint uuid NOT NULL,              -- all zero: not told apart, for its network or all clients had too many
    network uuid NOT NULL,                  -- all zero: not told apart
    refusals bigint NOT NULL,
    PRIMARY KEY (minute, site, network, fingerprint)
);
