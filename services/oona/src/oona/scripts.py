"""What has to be atomic in Redis. Times are passed in; an entry has the fields `e` envelope, `t` type, `a` failures."""

from __future__ import annotations

from typing import Final

PUBLISH: Final = """
-- KEYS: stream, seen key. ARGV: how long the id is remembered (ms), field and value pairs.
-- Returns the entry id; that of the first time when the message was stored before.
local known = redis.call('GET', KEYS[2])
if known then return known end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('SET', KEYS[2], id, 'PX', ARGV[1])
return id
"""

GIVE_BACK: Final = """
-- KEYS: stream, delayed set, bodies hash, dead letters. ARGV: group, entry id, consumer, now (ms), first delay (ms),
-- longest delay (ms), most failures, permanent (0 or 1), reason, logical stream, again (0 or 1).
-- Acknowledges and stores the message for later in one step, for this group only; returns what became of it.
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if #held == 0 or held[1][2] ~= ARGV[3] then return 'gone' end
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if #found == 0 then return 'trimmed' end
if ARGV[11] == '1' then redis.call('XDEL', KEYS[1], ARGV[2]) end
local entry = {}
for i = 1, #found[1][2], 2 do entry[found[1][2][i]] = found[1][2][i + 1] end
local failures = tonumber(entry['a'] or '0') + 1
if ARGV[8] == '1' or failures >= tonumber(ARGV[7]) then
  redis.call('XADD', KEYS[4], '*', 'e', entry['e'], 't', entry['t'], 'a', failures,
             's', ARGV[10], 'g', ARGV[1], 'r', ARGV[9])
  return 'buried'
end
local delay = math.min(tonumber(ARGV[6]), tonumber(ARGV[5]) * 2 ^ (failures - 1))
local member = ARGV[11] .. ':' .. ARGV[2]
redis.call('HSET', KEYS[3], member, cmsgpack.pack({'e', entry['e'], 't', entry['t'], 'a', tostring(failures)}))
redis.call('ZADD', KEYS[2], tonumber(ARGV[4]) + delay, member)
return 'delayed'
"""

PROMOTE: Final = """
-- KEYS: delayed set, bodies hash, stream of what comes again. ARGV: now (ms), most messages.
-- Makes due messages deliverable; returns the time of the next one, -1 when none waits.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  local packed = redis.call('HGET', KEYS[2], member)
  if packed then redis.call('XADD', KEYS[3], '*', unpack(cmsgpack.unpack(packed))) end
  redis.call('ZREM', KEYS[1], member)
  redis.call('HDEL', KEYS[2], member)
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return '-1' end
return following[2]
"""

REDRIVE: Final = """
-- KEYS: dead letters, stream of what comes again. ARGV: entry id.
-- Moves a dead letter back to its group with a clean record; returns how many were moved.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #found == 0 then return 0 end
local entry = {}
for i = 1, #found[1][2], 2 do entry[found[1][2][i]] = found[1][2][i + 1] end
redis.call('XADD', KEYS[2], '*', 'e', entry['e'], 't', entry['t'], 'a', '0')
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""
