-- Since when more may be stored of a journal than its position says, as a UUIDv7 to compare with ids of hits: somebody
-- has deleted or rewound the position. NULL: nothing is. Kept here, for whoever delivers the rest may be another process.
ALTER TABLE analytics.positions ADD COLUMN doubted uuid;
