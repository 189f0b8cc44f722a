"""The Redis store's scripts: Lua, which Redis runs atomically.

A session is a hash ``hmacfs:session:<key>``. Beside it stand indexes: the slot's key with the key of its open session,
another key with that of the session of the slot that finished last, sets of the open sessions of an owner and of a site
and of all sessions of a path, and for each state a set sorted by ``touched``. Redis may evict any key, so no index is
believed before its session was seen, and every write of a session restores all of them. Every key expires, long after
the session does, so that nothing stays for ever without a sweep.

A shared entry is a hash ``hmacfs:entry:<digest of its key>``. Its end is a time of Redis' own clock.
"""

from __future__ import annotations

#: KEYS: session, slot, finished slot, owner, site, path ("" for what it has none of), then the states' sets in STATES'
#: order.
#: ARGV: prefix of session keys, key, revision, touched, state, record, seconds to live, states..., in KEYS' order.
_STORE = """
local prefix, key, state, ttl = ARGV[1], ARGV[2], ARGV[5], ARGV[7]
local function holder()
  if KEYS[2] == '' then return nil end
  local other = redis.call('GET', KEYS[2])
  if other and other ~= key and redis.call('EXISTS', prefix .. other) == 1 then return other end
end
local function store()
  redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'touched', ARGV[4], 'record', ARGV[6])
  redis.call('HSET', KEYS[1], 'slot', KEYS[2], 'finished', KEYS[3], 'owner', KEYS[4], 'site', KEYS[5], 'path', KEYS[6])
  redis.call('EXPIRE', KEYS[1], ttl)
  if state == 'open' then
    if KEYS[2] ~= '' and not holder() then redis.call('SET', KEYS[2], key, 'EX', ttl) end
  else
    if KEYS[2] ~= '' and redis.call('GET', KEYS[2]) == key then redis.call('DEL', KEYS[2]) end
  end
  for number = 4, 6 do
    if KEYS[number] ~= '' and (number == 6 or state == 'open') then
      redis.call('SADD', KEYS[number], key)
      redis.call('EXPIRE', KEYS[number], ttl)
    elseif KEYS[number] ~= '' then
      redis.call('SREM', KEYS[number], key)
    end
  end
  if KEYS[3] ~= '' then
    local other = redis.call('GET', KEYS[3])
    if state == 'finished' then
      local touched = other and other ~= key and redis.call('HGET', prefix .. other, 'touched')
      if not touched or tonumber(touched) <= tonumber(ARGV[4]) then redis.call('SET', KEYS[3], key, 'EX', ttl) end
    elseif other == key then
      redis.call('DEL', KEYS[3])
    end
  end
  for number = 7, #KEYS do
    if ARGV[number + 1] == state then
      redis.call('ZADD', KEYS[number], ARGV[4], key)
      redis.call('EXPIRE', KEYS[number], ttl)
    else
      redis.call('ZREM', KEYS[number], key)
    end
  end
end
"""

#: 1 if the session is there now, 0 if its slot is another's.
CREATE = (
    _STORE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if holder() then return 0 end
store()
return 1
"""
)

#: The record that is there instead, if that one is as new or newer.
PUT = (
    _STORE
    + """
local old = redis.call('HMGET', KEYS[1], 'revision', 'touched', 'record')
if old[1] and old[2] and old[3] then
  local older, newer = tonumber(old[1]), tonumber(ARGV[3])
  if older > newer or (older == newer and tonumber(old[2]) >= tonumber(ARGV[4])) then return old[3] end
end
store()
return false
"""
)

#: KEYS: session, then the states' sets. ARGV: key.
REMOVE = """
local old = redis.call('HMGET', KEYS[1], 'slot', 'finished', 'owner', 'site', 'path')
redis.call('DEL', KEYS[1])
for number = 1, 5 do
  local index = old[number]
  if index and index ~= '' then
    if number > 2 then
      redis.call('SREM', index, ARGV[1])
    elseif redis.call('GET', index) == ARGV[1] then
      redis.call('DEL', index)
    end
  end
end
for number = 2, #KEYS do redis.call('ZREM', KEYS[number], ARGV[1]) end
"""

#: KEYS: slot. ARGV: prefix. The record of the session that the slot's key names, if there is one.
FIND = """
local key = redis.call('GET', KEYS[1])
if not key then return false end
return redis.call('HGET', ARGV[1] .. key, 'record')
"""

#: KEYS: a set of sessions' keys. ARGV: prefix. How many of them are still there.
COUNT = """
local count = 0
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[1] .. key) == 1 then count = count + 1 else redis.call('SREM', KEYS[1], key) end
end
return count
"""

#: KEYS: a set of sessions' keys. ARGV: prefix, how many at most. The records of those that were touched longest ago.
OLDEST = """
local found = {}
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local touched = redis.call('HGET', ARGV[1] .. key, 'touched')
  if touched then found[#found + 1] = {tonumber(touched), key} else redis.call('SREM', KEYS[1], key) end
end
table.sort(found, function(one, other)
  if one[1] ~= other[1] then return one[1] < other[1] end
  return one[2] < other[2]
end)
local records = {}
for number = 1, math.min(#found, tonumber(ARGV[2])) do
  records[number] = redis.call('HGET', ARGV[1] .. found[number][2], 'record')
end
return records
"""

_NOW = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
"""

#: KEYS: entry. Its value, version and seconds left; nothing if there is none.
READ_ENTRY = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'value', 'version', 'ends')
if not found[2] then return false end
return {found[1], found[2], string.format('%.6f', found[3] - now)}
"""
)

#: KEYS: entry. ARGV: the version that it must have, "" for none; the one that it gets; value; seconds until it is over,
#: "" for those that it has; seconds for which it is kept beyond. 1 if it was changed.
REPLACE_ENTRY = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'version', 'ends')
if (found[1] or '') ~= ARGV[1] then return 0 end
local ends = ARGV[4] == '' and tonumber(found[2] or now) or now + (tonumber(ARGV[4]) or 0)
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'value', ARGV[3], 'ends', string.format('%.6f', ends))
redis.call('PEXPIRE', KEYS[1], string.format('%d', math.ceil((ends - now + ARGV[5]) * 1000)))
return 1
"""
)

#: KEYS: entry. ARGV: version. 0 if it has another.
REMOVE_ENTRY = """
local version = redis.call('HGET', KEYS[1], 'version')
if version and version ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""
