-- Take requests from a rate, as far as it allows them: the generic cell rate algorithm (ITU-T I.371).
--
-- KEYS[1]  the rate: until when the requests so far are spread, in microseconds since 1970
-- ARGV[1]  microseconds from one request to the next
-- ARGV[2]  how many may come at once
-- ARGV[3]  how many there are
-- Returns how many are allowed, how many more would be now, in how many microseconds all are again, and in how many the
-- next one is.

local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ahead = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or 0) - now)
ahead = math.min(ahead, interval * burst)  -- a rate that was lowered does not shut its key out
local allowed = math.min(wanted, math.floor(burst - ahead / interval))
if allowed > 0 then
  ahead = ahead + allowed * interval
  -- Deleted first: after a script's first write, Redis does not check whether its memory is full.
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
end
return { allowed, math.floor(burst - ahead / interval), ahead, math.max(0, ahead - (burst - 1) * interval) }
