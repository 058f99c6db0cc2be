-- Drop the states of sessions that have expired; what remains says that there was a session.
--
-- KEYS     any keys of the service: sessions, and answers, which are left alone
-- ARGV[1]  grace, ms: a key with no more than this left to live is of a session that has expired
-- Returns how many states were dropped.

local HEADER = 45
local dropped = 0
for _, key in ipairs(KEYS) do
  -- A session's key ends with its hash tag; an answer's goes on.
  if string.sub(key, -1) == '}' and redis.call('GETRANGE', key, 0, 0) == '\1'
    and redis.call('PTTL', key) <= tonumber(ARGV[1]) and redis.call('STRLEN', key) >= HEADER then
    redis.call('SET', key, '\2' .. redis.call('GETRANGE', key, 1, HEADER - 1), 'KEEPTTL')
    dropped = dropped + 1
  end
end
return dropped
