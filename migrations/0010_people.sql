-- People browse with browsers: a program that names none, or nothing at all, is judged as a tool and was yet counted
-- among them.
CREATE OR REPLACE VIEW analytics.human_sessions AS
SELECT * FROM analytics.sessions
WHERE bot_class IS NULL AND browser IS NOT NULL AND score < 50 AND level < 3 AND page_views > 0;

CREATE OR REPLACE VIEW analytics.human_hits AS
SELECT * FROM analytics.hits
WHERE bot_class IS NULL AND browser IS NOT NULL AND score < 50 AND level < 3 AND outcome <> 'refused';
