-- Drop the states of expired sessions; the header that remains records that the session existed.
--
-- KEYS     any keys of the service: sessions, and responses, which are left alone
-- ARGV[1]  grace, ms: a key whose TTL is no longer than this is an expired session
-- Returns how many states were dropped.

local HEADER = 45
local dropped = 0
for _, key in ipairs(KEYS) do
  -- The key of a session ends with its hash tag; that of a response goes on.
  if string.sub(key, -1) == '}' and redis.call('GETRANGE', key, 0, 0) == '\1'
    and redis.call('PTTL', key) <= tonumber(ARGV[1]) and redis.call('STRLEN', key) >= HEADER then
    redis.call('SET', key, '\2' .. redis.call('GETRANGE', key, 1, HEADER - 1), 'KEEPTTL')
    dropped = dropped + 1
  end
end
return dropped
