-- Say which keys are live sessions.
--
-- KEYS     any keys of the service: sessions, and responses, which are none
-- ARGV[1]  grace, ms: a key whose TTL is no longer than this is an expired session
-- Returns, for each key, 1 or 0.

local found = {}
for i, key in ipairs(KEYS) do
  -- The key of a session ends with its hash tag; that of a response goes on.
  local format = string.sub(key, -1) == '}' and redis.call('GETRANGE', key, 0, 0)
  local session = format == '\1' or format == '\3'
  found[i] = session and redis.call('PTTL', key) > tonumber(ARGV[1]) and 1 or 0
end
return found
