-- Write the new records of sessions, each only if its record is still the one that was read, together with the
-- responses of the requests that the commit completes.
--
-- ARGV[1]  grace, ms: a key whose TTL is no longer than this is an expired session
-- ARGV[2]  how long responses are stored, ms
-- Then, for each session, one of KEYS and five of ARGV:
--   KEYS   the session
--   ARGV   live       '1' if the session must not have expired
--          expected   the header that was read; '' if there was no key
--          record     the new record, header first, or the tombstone
--          expiry     of the key, ms
--          responses  how many follow; for each, one more of KEYS and of ARGV:
--   KEYS   where the response is stored
--   ARGV   the response
-- Returns, for each session:
--    1  committed; also if this very commit was made before and only its reply was lost: then it is written again, since
--       a WAIT concerns only what its own connection has written
--    0  conflict: another commit came first, or has already stored one of the responses
--   -1  expired or deleted since it was read

local grace, keep = tonumber(ARGV[1]), ARGV[2]
local outcomes = {}
local k, a = 1, 3

-- 3 a session; 1 one that an earlier version of the service wrote.
local function is_session(header)
  local format = string.byte(header)
  return format == 3 or format == 1
end

local function commit(session, live, expected, record, expiry, responses)
  local size = math.max(#expected, 9)
  local header = redis.call('GETRANGE', session, 0, size - 1)
  local again = string.sub(header, 1, 9) == string.sub(record, 1, 9)
  if not again then
    if live == '1' and (not is_session(header) or redis.call('PTTL', session) <= grace) then return -1 end
    if header ~= expected then return 0 end
    for i = 0, responses - 1 do
      local found = redis.call('GET', KEYS[k + i])
      if found and string.byte(found) == 1 then return 0 end
    end
  end
  -- After a script's first write, Redis does not check whether its memory is full: this is how a session can be deleted
  -- then, which frees memory.
  if again or string.byte(record) == 0 then redis.call('DEL', session) end
  redis.call('SET', session, record, 'PX', expiry)
  for i = 0, responses - 1 do
    redis.call('SET', KEYS[k + i], ARGV[a + i], 'PX', keep)
  end
  return 1
end

while a <= #ARGV do
  local session, responses = KEYS[k], tonumber(ARGV[a + 4])
  local live, expected, record, expiry = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  k, a = k + 1, a + 5
  outcomes[#outcomes + 1] = commit(session, live, expected, record, expiry, responses)
  k, a = k + responses, a + responses
end
return outcomes
