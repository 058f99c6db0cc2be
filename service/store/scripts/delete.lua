-- End a session: a tombstone takes the record's place for as long as ended sessions are remembered.
--
-- KEYS[1]  the session
-- ARGV[1]  grace, ms: the tombstone's life; a key with no more than this left is of a session that has ended
-- ARGV[2]  the tombstone
-- Answers: 1 deleted (an expired session too), 0 it was deleted before, -1 there was none.

local value = redis.call('GETRANGE', KEYS[1], 0, #ARGV[2])
if value == '' then return -1 end
if value == ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return 1
