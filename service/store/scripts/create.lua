-- Begin a session, unless a live one has the name.
--
-- KEYS[1]  the session
-- ARGV[1]  grace, ms: a key with no more than this left to live is of a session that has ended
-- ARGV[2]  the new record, header first
-- ARGV[3]  expiry of the key, ms
-- Answers: 1 begun (also where this very call was made before and only its answer was lost), 0 the name is taken.

local HEADER = 45
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[1]) then
  local header = redis.call('GETRANGE', KEYS[1], 0, HEADER - 1)
  return header == string.sub(ARGV[2], 1, HEADER) and 1 or 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
