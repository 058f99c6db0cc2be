-- Drop the states of expired sessions; the header that remains records that the session existed.
--
-- KEYS     any keys of the service: sessions, and responses, which are left alone
-- ARGV[1]  grace, ms: a key whose TTL is no longer than this is an expired session
-- Returns how many states were dropped.

-- By the format of a session: how long its header is, and the format of one that has expired. The first is written by
-- earlier versions of the service.
local SIZE = { ['\1'] = 45, ['\3'] = 53 }
local EXPIRED = { ['\1'] = '\2', ['\3'] = '\4' }

local dropped = 0
for _, key in ipairs(KEYS) do
  -- The key of a session ends with its hash tag; that of a response goes on.
  local format = string.sub(key, -1) == '}' and redis.call('GETRANGE', key, 0, 0)
  local size = SIZE[format]
  if size then
    local left = redis.call('PTTL', key)
    if left > 0 and left <= tonumber(ARGV[1]) and redis.call('STRLEN', key) >= size then
      local header = redis.call('GETRANGE', key, 1, size - 1)
      -- Deleted first: after a script's first write, Redis does not check whether its memory is full.
      redis.call('DEL', key)
      redis.call('SET', key, EXPIRED[format] .. header, 'PX', left)
      dropped = dropped + 1
    end
  end
end
return dropped
