"""What conversations do in the Redis, as scripts: each is one command, and all of it happens or none.

A conversation is a hash of what is known of it, its lock and the turns that were appended; a hash of its items by their
ids, each with its number before it; a sorted set of those ids by number. An owner has a sorted set of conversations by
when they were written to. All keys share one hash tag, so that a script may name keys that it was not given.

The clock is the server's, so that the nodes need not agree on the time.
"""

from __future__ import annotations

_KNOWN = """
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function known(conv)
  return redis.call('HMGET', conv, 'owner', 'created', 'updated', 'metadata', 'opening', 'version', 'items', 'bytes',
    'lock')
end
"""

_ADD = """
local function add(n, first)
  local count, bytes = 0, 0
  for i = first, #ARGV, 2 do
    if redis.call('HSETNX', KEYS[2], ARGV[i], n .. ' ' .. ARGV[i + 1]) == 1 then
      redis.call('ZADD', KEYS[3], n, ARGV[i])
      n, count, bytes = n + 1, count + 1, bytes + #ARGV[i + 1]
    end
  end
  return n, count, bytes
end
"""

_DROP = """
local function drop(index, id, conv)
  redis.call('DEL', conv, conv .. ':items', conv .. ':order')
  redis.call('ZREM', index, id)
end
"""

# KEYS: conversation, items, order, index of the owner.
# ARGV: ms to keep, id, owner, created, metadata, opening, most of an owner, prefix of conversations, items.
CREATE = (
    _KNOWN
    + _ADD
    + _DROP
    + """
local keep, at = tonumber(ARGV[1]), now()
local n, count, bytes = add(0, 9)
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'created', ARGV[4], 'updated', at, 'metadata', ARGV[5],
  'opening', ARGV[6], 'version', 1, 'items', count, 'bytes', bytes, 'next', n, 'index', KEYS[4], 'dated', at)
redis.call('ZADD', KEYS[4], at, ARGV[2])
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], keep) end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', at - keep)
local over = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[7])
if over > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, over - 1)) do drop(KEYS[4], id, ARGV[8] .. id) end
end
return 1
"""
)

# KEYS: conversation, items, order. ARGV: ms to keep, id, turn, opening, items.
# Expiry is set anew when a twentieth of it has passed, and when the keys of items may be new.
APPEND = (
    _KNOWN
    + _ADD
    + """
local keep, turn, opening = tonumber(ARGV[1]), ARGV[3], ARGV[4]
local had = redis.call('HMGET', KEYS[1], 'index', 'next', 'items', 'bytes', 'version', 'opening', 'dated', 'lock',
  't:' .. turn)
if not had[1] then return false end
local mine = turn ~= '' and had[8] == turn
if turn ~= '' and had[9] then
  if mine then redis.call('HSET', KEYS[1], 'lock', '') end
  return known(KEYS[1])
end
local at = now()
local n, count, bytes = add(tonumber(had[2]), 5)
local set = {'updated', at, 'version', had[5] + 1, 'items', had[3] + count, 'bytes', had[4] + bytes, 'next', n}
local function also(field, value) set[#set + 1] = field set[#set + 1] = value end
if had[6] == '' and opening ~= '' then also('opening', opening) end
if turn ~= '' then also('t:' .. turn, '') end
if mine then also('lock', '') end
local late = at - had[7] > keep / 20
if late then also('dated', at) end
redis.call('HSET', KEYS[1], unpack(set))
redis.call('ZADD', had[1], at, ARGV[2])
if late then redis.call('PEXPIRE', KEYS[1], keep) redis.call('PEXPIRE', had[1], keep) end
if late or had[3] == '0' then redis.call('PEXPIRE', KEYS[2], keep) redis.call('PEXPIRE', KEYS[3], keep) end
return known(KEYS[1])
"""
)

# KEYS: conversation. ARGV: id, metadata.
UPDATE = (
    _KNOWN
    + """
local had = redis.call('HMGET', KEYS[1], 'index', 'version')
if not had[1] then return false end
local at = now()
redis.call('HSET', KEYS[1], 'metadata', ARGV[2], 'updated', at, 'version', had[2] + 1)
redis.call('ZADD', had[1], at, ARGV[1])
return known(KEYS[1])
"""
)

# KEYS: conversation, items, order. ARGV: id, item.
REMOVE = (
    _KNOWN
    + """
local item = redis.call('HGET', KEYS[2], ARGV[2])
local had = redis.call('HMGET', KEYS[1], 'index', 'items', 'bytes', 'version')
if not item or not had[1] then return false end
local at, size = now(), #item - string.find(item, ' ', 1, true)
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[1], 'updated', at, 'version', had[4] + 1, 'items', had[2] - 1, 'bytes', had[3] - size)
redis.call('ZADD', had[1], at, ARGV[1])
return known(KEYS[1])
"""
)

# KEYS: conversation. ARGV: id.
DELETE = (
    _DROP
    + """
local index = redis.call('HGET', KEYS[1], 'index')
if not index then return 0 end
drop(index, ARGV[1], KEYS[1])
return 1
"""
)

# KEYS: index of the owner. ARGV: prefix of conversations, how many at most.
DELETE_SOME = (
    _DROP
    + """
local ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)
local there = 0
for _, id in ipairs(ids) do
  there = there + redis.call('EXISTS', ARGV[1] .. id)
  drop(KEYS[1], id, ARGV[1] .. id)
end
return {#ids, there}
"""
)

# KEYS: conversation, items. ARGV: turn, ms to hold.
BEGIN = (
    _KNOWN
    + """
local had = redis.call('HMGET', KEYS[1], 'index', 'lock', 'until')
if not had[1] then return false end
local at = now()
if had[2] and had[2] ~= '' and had[2] ~= ARGV[1] and at < tonumber(had[3]) then return 0 end
redis.call('HSET', KEYS[1], 'lock', ARGV[1], 'until', at + ARGV[2])
return redis.call('HVALS', KEYS[2])
"""
)

# KEYS: conversation. ARGV: turn, ms to hold.
RENEW = (
    _KNOWN
    + """
local had = redis.call('HMGET', KEYS[1], 'index', 'lock', 'until')
if not had[1] then return 0 end
local at = now()
if had[2] and had[2] ~= '' and had[2] ~= ARGV[1] and at < tonumber(had[3]) then return 0 end
redis.call('HSET', KEYS[1], 'lock', ARGV[1], 'until', at + ARGV[2])
return 1
"""
)

# KEYS: conversation. ARGV: turn.
RELEASE = """
if redis.call('HGET', KEYS[1], 'lock') == ARGV[1] then redis.call('HSET', KEYS[1], 'lock', '') end
return 1
"""

# KEYS: items, order. ARGV: item before the first or '', how many, 1 for the newest first.
PAGE = """
local start = 0
local rank, range = 'ZRANK', 'ZRANGE'
if ARGV[3] == '1' then rank, range = 'ZREVRANK', 'ZREVRANGE' end
if ARGV[1] ~= '' then
  local found = redis.call(rank, KEYS[2], ARGV[1])
  if not found then return false end
  start = found + 1
end
local ids = redis.call(range, KEYS[2], start, start + ARGV[2] - 1)
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(ids))
"""

# KEYS: index of the owner. ARGV: prefix of conversations, id before the first or '', how many, 1 for the newest first.
# Answers how many it looked at, and of each its id and what is known; those that expired leave the index.
LISTING = (
    _KNOWN
    + """
local start = 0
local rank, range = 'ZRANK', 'ZRANGE'
if ARGV[4] == '1' then rank, range = 'ZREVRANK', 'ZREVRANGE' end
if ARGV[2] ~= '' then
  local found = redis.call(rank, KEYS[1], ARGV[2])
  if not found then return false end
  start = found + 1
end
local ids = redis.call(range, KEYS[1], start, start + ARGV[3] - 1)
local answer, gone = {#ids}, {}
for _, id in ipairs(ids) do
  local one = known(ARGV[1] .. id)
  if one[1] then
    table.insert(one, 1, id)
    answer[#answer + 1] = one
  else
    gone[#gone + 1] = id
  end
end
for _, id in ipairs(gone) do redis.call('ZREM', KEYS[1], id) end
return answer
"""
)
