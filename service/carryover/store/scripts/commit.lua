-- Write the new records of sessions, each only if it still is what was read, and with it the answers that this gives.
--
-- ARGV[1]  grace, ms: a key with no more than this left to live is of a session that has expired
-- ARGV[2]  how long an answer is kept, ms
-- Then, for each session, one of KEYS and five of ARGV:
--   KEYS   the session
--   ARGV   live      '1' if the session must not have expired
--          expected  the header that was read; '' where there was no key
--          record    the new record, header first, or the tombstone
--          expiry    of the key, ms
--          answers   how many follow; for each, one more of KEYS and of ARGV:
--   KEYS   what the answer is stored under
--   ARGV   the answer
-- Returns, for each session:
--    1  committed; also where this very commit was made before and only its reply was lost
--    0  conflict: another commit came between, or has given one of the answers
--   -1  gone: expired or deleted since it was read

local grace, keep = tonumber(ARGV[1]), ARGV[2]
local outcomes = {}
local k, a = 1, 3

local function commit(session, live, expected, record, expiry, answers)
  local size = math.max(#expected, 9)
  local header = redis.call('GETRANGE', session, 0, size - 1)
  if string.sub(header, 1, 9) == string.sub(record, 1, 9) then return 1 end
  if live == '1' and (string.byte(header) ~= 1 or redis.call('PTTL', session) <= grace) then return -1 end
  if header ~= expected then return 0 end
  for i = 0, answers - 1 do
    local found = redis.call('GET', KEYS[k + i])
    if found and string.byte(found) == 1 then return 0 end
  end
  redis.call('SET', session, record, 'PX', expiry)
  for i = 0, answers - 1 do
    redis.call('SET', KEYS[k + i], ARGV[a + i], 'PX', keep)
  end
  return 1
end

while a <= #ARGV do
  local session, answers = KEYS[k], tonumber(ARGV[a + 4])
  local live, expected, record, expiry = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  k, a = k + 1, a + 5
  outcomes[#outcomes + 1] = commit(session, live, expected, record, expiry, answers)
  k, a = k + answers, a + answers
end
return outcomes
