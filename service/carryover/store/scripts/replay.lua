-- Read a stored response and write it again: a WAIT concerns only what its own connection has written.
--
-- KEYS[1]  where the response is stored
-- Returns it; false where there is none any more.

local found, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
if not found or left <= 0 then return false end
-- Deleted first: after a script's first write, Redis does not check whether its memory is full.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], found, 'PX', left)
return found
