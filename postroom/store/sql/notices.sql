-- Notices to the admins: what they were told, what is still to be sent, and which process sends.

-- name: all_notices
SELECT kind, subject, first_at, noticed_at, last_at, count AS times, told_at, ended_at, notice_id, detail
FROM notice ORDER BY kind, first_at, subject;

-- name: keep_notice!
INSERT INTO notice (kind, subject, first_at, noticed_at, last_at, count, told_at, ended_at, notice_id, detail)
VALUES (:kind, :subject, :first_at, :noticed_at, :last_at, :count, :told_at, :ended_at, :notice_id, :detail)
ON CONFLICT (kind, subject) DO UPDATE SET
    first_at = excluded.first_at, noticed_at = excluded.noticed_at, last_at = excluded.last_at, count = excluded.count,
    told_at = excluded.told_at, ended_at = excluded.ended_at, notice_id = excluded.notice_id, detail = excluded.detail;

-- name: forget_notice!
DELETE FROM notice WHERE kind = :kind AND subject = :subject;

-- name: notices_to_send
SELECT notice, ways FROM notice_to_send ORDER BY notice_id;

-- name: keep_notice_to_send!
INSERT INTO notice_to_send (notice_id, notice, ways) VALUES (:notice_id, :notice, :ways)
ON CONFLICT (notice_id) DO UPDATE SET notice = excluded.notice, ways = excluded.ways;

-- name: forget_notice_to_send!
DELETE FROM notice_to_send WHERE notice_id = :notice_id;

-- name: note_notice_message!
INSERT INTO notice_message (request_id) VALUES (:request_id) ON CONFLICT (request_id) DO NOTHING;

-- name: notice_messages
-- The notices that are messages, and what has become of each; without a state: nothing is known of it any more.
SELECT notice_message.request_id, job.state, job.finished_at
FROM notice_message LEFT JOIN message ON message.request_id = notice_message.request_id
LEFT JOIN job ON job.message_id = message.id;

-- name: forget_notice_message!
DELETE FROM notice_message WHERE request_id = :request_id;

-- name: notice_memory^
SELECT holder, beat, memory FROM notice_memory WHERE one = 1;

-- name: begin_notice_memory!
INSERT INTO notice_memory (one, holder, beat, memory) VALUES (1, :holder, 1, '{}') ON CONFLICT (one) DO NOTHING;

-- name: renew_notice_memory!
UPDATE notice_memory SET beat = beat + 1 WHERE one = 1 AND holder = :holder;

-- name: take_notice_memory!
UPDATE notice_memory SET holder = :holder, beat = beat + 1 WHERE one = 1 AND holder = :former AND beat = :beat;

-- name: keep_notice_memory!
UPDATE notice_memory SET beat = beat + 1, memory = :memory WHERE one = 1 AND holder = :holder;
