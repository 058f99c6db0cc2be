-- Read keys without their states.
--
-- KEYS     sessions
-- ARGV[1]  how many bytes to read of each
-- Returns, for each key, these bytes, empty where there is no such key, and its TTL, ms. No other client comes between:
-- a session that was deleted is never one that has expired.

local found = {}
for i, key in ipairs(KEYS) do
  found[i] = { redis.call('GETRANGE', key, 0, ARGV[1] - 1), redis.call('PTTL', key) }
end
return found
