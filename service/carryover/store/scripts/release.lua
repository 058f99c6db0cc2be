-- Release the locks of requests that failed; a response that another worker has stored meanwhile stays.
--
-- KEYS   where the responses would be stored, all of one session
-- Returns how many locks there were.

local released = 0
for _, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, 0) == '\0' then
    released = released + redis.call('DEL', key)
  end
end
return released
