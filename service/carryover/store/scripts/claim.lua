-- Give the records of sessions other nonces, and change nothing else: commits of those who have read them before conflict.
--
-- KEYS  the sessions
-- ARGV  for each, the six bytes of its nonce that are not the edition
-- Returns how many there were.

local claimed = 0
for i, key in ipairs(KEYS) do
  local record, left = redis.call('GET', key), redis.call('PTTL', key)
  if record and string.byte(record) == 3 and left > 0 then
    redis.call('SET', key, string.sub(record, 1, 3) .. ARGV[i] .. string.sub(record, 10), 'PX', left)
    claimed = claimed + 1
  end
end
return claimed
