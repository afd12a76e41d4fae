-- name: create_vod_table
-- Create a wide table as Streamix has it.
CREATE TABLE public."Vod" (
    "id" text PRIMARY KEY,
    "channelId" text NOT NULL,
    "title" text NOT NULL,
    "description" text,
    "s3Bucket" text NOT NULL,
    "s3Region" text NOT NULL,
    "s3Key" text NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "viewCount" integer NOT NULL DEFAULT 0
)

-- name: create_vod_index
-- Create its second index.
CREATE INDEX "Vod_channelId_idx" ON public."Vod" ("channelId")

-- name: insert_vods
-- Insert rows with these ids.
INSERT INTO public."Vod" ("id", "channelId", "title", "description", "s3Bucket", "s3Region", "s3Key")
SELECT id, 'channel' || number %% 5000, 'The title of ' || id, repeat('words ', 30),
    'streamix-vods', 'eu-central-1', 'vods/' || id || '/index.m3u8'
FROM unnest(%(ids)s::text[]) WITH ORDINALITY AS t (id, number)

-- name: update_raw
-- Add the rows of the table `stage`, sorted.
UPDATE public."Vod" AS t SET "viewCount" = t."viewCount" + s.delta
FROM (SELECT vod_id, delta FROM stage ORDER BY vod_id) AS s WHERE t."id" = s.vod_id

-- name: edit_vod
-- Edit a row as an application does.
UPDATE public."Vod" SET "title" = "title" || '' WHERE "id" = %(id)s
