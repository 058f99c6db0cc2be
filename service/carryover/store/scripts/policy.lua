-- Return what the server does when its memory is full, its maxmemory-policy; '' where the user may not ask.
--
-- KEYS[1]  any key of the server; only a cluster needs it, to find that

local info = redis.pcall('INFO', 'memory')
if type(info) ~= 'string' then return '' end
return string.match(info, 'maxmemory_policy:([%w-]+)') or ''
