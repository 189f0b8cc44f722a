"""Redis's part of the Redis store: Lua, which Redis runs as one indivisible step.

A session is a hash ``hmacfs:session:<token>``. Beside it stand indexes: the slot's key with the token of its open
session, another key with that of the session of the slot that finished last, the owner's set of open sessions, and for
each state a set sorted by ``touched``. Redis may evict any key, so
no index is believed before its session was seen, and every write of a session restores all of them. Every key expires,
long after the session has, so that nothing stays for ever if no sweep ever comes.
"""

from __future__ import annotations

#: KEYS: session, slot ("" if it has none), owner, finished slot (likewise), then the states' sets in STATES' order.
#: ARGV: prefix of session keys, token, revision, touched, state, record, seconds to live, states..., in KEYS' order.
_STORE = """
local prefix, token, state, ttl = ARGV[1], ARGV[2], ARGV[5], ARGV[7]
local function holder()
  if KEYS[2] == '' then return nil end
  local other = redis.call('GET', KEYS[2])
  if other and other ~= token and redis.call('EXISTS', prefix .. other) == 1 then return other end
end
local function store()
  redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'touched', ARGV[4], 'record', ARGV[6])
  redis.call('HSET', KEYS[1], 'slot', KEYS[2], 'owner', KEYS[3], 'finished', KEYS[4])
  redis.call('EXPIRE', KEYS[1], ttl)
  if state == 'open' then
    if KEYS[2] ~= '' and not holder() then redis.call('SET', KEYS[2], token, 'EX', ttl) end
    redis.call('SADD', KEYS[3], token)
    redis.call('EXPIRE', KEYS[3], ttl)
  else
    if KEYS[2] ~= '' and redis.call('GET', KEYS[2]) == token then redis.call('DEL', KEYS[2]) end
    redis.call('SREM', KEYS[3], token)
  end
  if KEYS[4] ~= '' then
    local other = redis.call('GET', KEYS[4])
    if state == 'finished' then
      local touched = other and other ~= token and redis.call('HGET', prefix .. other, 'touched')
      if not touched or tonumber(touched) <= tonumber(ARGV[4]) then redis.call('SET', KEYS[4], token, 'EX', ttl) end
    elseif other == token then
      redis.call('DEL', KEYS[4])
    end
  end
  for number = 5, #KEYS do
    if ARGV[number + 3] == state then
      redis.call('ZADD', KEYS[number], ARGV[4], token)
      redis.call('EXPIRE', KEYS[number], ttl)
    else
      redis.call('ZREM', KEYS[number], token)
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

#: KEYS: session, then the states' sets. ARGV: token.
REMOVE = """
local old = redis.call('HMGET', KEYS[1], 'slot', 'owner', 'finished')
redis.call('DEL', KEYS[1])
if old[1] and old[1] ~= '' and redis.call('GET', old[1]) == ARGV[1] then redis.call('DEL', old[1]) end
if old[2] then redis.call('SREM', old[2], ARGV[1]) end
if old[3] and old[3] ~= '' and redis.call('GET', old[3]) == ARGV[1] then redis.call('DEL', old[3]) end
for number = 2, #KEYS do redis.call('ZREM', KEYS[number], ARGV[1]) end
"""

#: KEYS: slot. ARGV: prefix. The record of the session that the slot's key names, if there is one.
FIND = """
local token = redis.call('GET', KEYS[1])
if not token then return false end
return redis.call('HGET', ARGV[1] .. token, 'record')
"""

#: KEYS: owner. ARGV: prefix. How many of the owner's open sessions are still there.
COUNT_OPEN = """
local count = 0
for _, token in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[1] .. token) == 1 then count = count + 1 else redis.call('SREM', KEYS[1], token) end
end
return count
"""
