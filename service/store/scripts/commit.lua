-- Write the new records of sessions, each only if it still is what was read.
--
-- KEYS     the sessions
-- ARGV[1]  grace, ms: a key with no more than this left to live is of a session that has expired
-- ARGV[2…] for each key, three:
--            expected  the header that was read; '' where there was no key, the tombstone where that was read
--            record    the new record, header first
--            expiry    of the key, ms
-- Answers, for each key:
--    1  committed; also where this very commit was made before and only its answer was lost
--    0  conflict: another commit came between
--   -1  gone: expired or deleted since it was read

local HEADER = 45
local grace = tonumber(ARGV[1])
local answers = {}
for i, key in ipairs(KEYS) do
  local expected, record, expiry = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local header = redis.call('GETRANGE', key, 0, HEADER - 1)
  if header == string.sub(record, 1, HEADER) then
    answers[i] = 1
  elseif #expected == HEADER and (#header < HEADER or redis.call('PTTL', key) <= grace) then
    answers[i] = -1
  elseif header == expected then
    redis.call('SET', key, record, 'PX', expiry)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
