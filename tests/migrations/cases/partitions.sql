-- case: detach
ALTER TABLE events DETACH PARTITION events_2025;
-- case: detach-if-exists-quoted
ALTER TABLE IF EXISTS public.events DETACH PARTITION "public"."events_2026";
-- case: detach-default
ALTER TABLE events DETACH PARTITION events_rest;
-- case: detach-and-attach
ALTER TABLE events DETACH PARTITION events_2025;
ALTER TABLE events ATTACH PARTITION events_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
-- case: detach-a-new-one
CREATE TABLE events_2019 PARTITION OF events FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
ALTER TABLE events DETACH PARTITION events_2019;
-- case: create
CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
-- case: attach
CREATE TABLE events_2028 (LIKE events INCLUDING DEFAULTS);
ALTER TABLE events ATTACH PARTITION events_2028 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01');
-- case: drop
DROP TABLE IF EXISTS events_rest;
-- case: rename
ALTER TABLE events_2025 RENAME TO events_y2025;
-- case: no-inherit
ALTER TABLE media_audio NO INHERIT media;
-- case: inherit
CREATE TABLE media_video (LIKE media INCLUDING ALL, height integer);
ALTER TABLE media_video INHERIT media;
-- case: no-inherit-new
CREATE TABLE media_video (height integer) INHERITS (media);
ALTER TABLE media_video NO INHERIT media;
-- case: constraint-on-one
ALTER TABLE events_2026 ADD CONSTRAINT events_2026_kind_check CHECK (kind <> '');
-- case: truncate-one
TRUNCATE events_2025;
-- case: new-partitioned-table
CREATE TABLE metrics (at date NOT NULL, value integer) PARTITION BY RANGE (at);
CREATE TABLE metrics_2026 PARTITION OF metrics FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
ALTER TABLE metrics DETACH PARTITION metrics_2026;
DROP TABLE metrics_2026;
-- case: attach-an-old-table
CREATE TABLE all_devices (id bigint NOT NULL, user_id bigint, name text) PARTITION BY RANGE (id);
ALTER TABLE all_devices ATTACH PARTITION devices FOR VALUES FROM (0) TO (3);
-- case: attach-an-old-table-and-detach
CREATE TABLE all_devices (id bigint NOT NULL, user_id bigint, name text) PARTITION BY RANGE (id);
ALTER TABLE all_devices ATTACH PARTITION devices FOR VALUES FROM (0) TO (3);
ALTER TABLE all_devices DETACH PARTITION devices;
-- case: attach-made-in-a-loop
DO $$
DECLARE year int;
BEGIN
    FOR year IN 2028..2029 LOOP
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS)', 'events_' || year);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', 'events_' || year, year || '-01-01', (year + 1) || '-01-01');
    END LOOP;
END $$;
