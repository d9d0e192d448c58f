"""What runs inside Valkey or Redis: each script is atomic, and touches keys of one slot of a cluster only.

The rule of LEND is decide.lending.lend; a test compares both. Every key expires. TIME is the server's, for all workers.
"""

from __future__ import annotations

_NOW = """
local told = redis.call('TIME')
local now = tonumber(told[1]) + tonumber(told[2]) / 1000000
"""


def _heeded(key: str, argument: str) -> str:
    """Return what finds the revision that a worker knows: none of a server that is behind it.

    Such as one that lost its keys, took over from one that did not tell it all, or had nothing to tell for a week.
    """
    return f"""
local heeded = tonumber({argument})
if heeded > tonumber(redis.call('GET', {key}) or 0) then
  heeded = 0
end
"""


# KEYS: workers, scarce, believed, revision. ARGV: worker, revision that it knows, life, most. Returns the workers that
# live with the revision that each knows, and what is scarce since: counter, revision * 4 + stage.
BEAT = (
    _NOW
    + _heeded("KEYS[4]", "ARGV[2]")
    + """
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. string.format('%.0f', heeded))
redis.call('EXPIRE', KEYS[1], 3600)
local alive, all = {}, redis.call('HGETALL', KEYS[1])
for place = 1, #all, 2 do
  local seen, known = string.match(all[place + 1], '(%S+) (%S+)')
  if now - tonumber(seen) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], all[place])
  else
    alive[#alive + 1] = all[place]
    alive[#alive + 1] = known
  end
end
local over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
  redis.call('ZREM', KEYS[2], unpack(over))
  redis.call('ZREM', KEYS[3], unpack(over))
end
if redis.call('ZCARD', KEYS[2]) > redis.call('ZCARD', KEYS[3]) then
  -- Of an older version, which gave them no end: they get that of a counter announced now.
  for place, name in ipairs(redis.call('ZDIFF', 2, KEYS[2], KEYS[3])) do
    if place > 1000 then break end
    local size = tonumber(string.sub(name, 33), 16) or 0
    redis.call('ZADD', KEYS[3], now + 2 * math.max(size, 2) + tonumber(ARGV[3]), name)
  end
  redis.call('EXPIRE', KEYS[3], 172800)
end
local since = '(' .. string.format('%.0f', heeded * 4 + 3)
return {alive, redis.call('ZRANGEBYSCORE', KEYS[2], since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])}
"""
)

# KEYS: revision, scarce, believed. ARGV: revision that the worker knows, most, then counter, stage and seconds for
# which it is believed of each. Returns the new revisions, and what is scarce as BEAT.
ANNOUNCE = (
    _NOW
    + _heeded("KEYS[1]", "ARGV[1]")
    + """
local given = {}
for place = 3, #ARGV, 3 do
  local revision = redis.call('INCR', KEYS[1])
  redis.call('ZADD', KEYS[2], string.format('%.0f', revision * 4 + tonumber(ARGV[place + 1])), ARGV[place])
  redis.call('ZADD', KEYS[3], now + tonumber(ARGV[place + 2]), ARGV[place])
  given[#given + 1] = revision
end
redis.call('EXPIRE', KEYS[1], 604800)
for place = 2, 3 do
  redis.call('EXPIRE', KEYS[place], 172800)
  redis.call('ZREMRANGEBYRANK', KEYS[place], 0, -20001)
end
local since = '(' .. string.format('%.0f', heeded * 4 + 3)
return {given, redis.call('ZRANGEBYSCORE', KEYS[2], since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])}
"""
)

# KEYS: counter. ARGV: worker, seconds, limit, share, used, keep, wanted, life, exchanges that were answered to this
# worker, then worker and revision of all that live. Returns units, left, wait, stage to announce or 0.
LEND = (
    _NOW
    + """
local me, size, limit, share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local used, keep, wanted, life = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local packed = redis.call('GET', KEYS[1])
local c = {window = 0, units = 0, before = 0, stage = 0, raised = 0, told = 0, loans = {}}
if packed then
  c = cmsgpack.unpack(packed)
end
local this = math.floor(now / size)
if this == c.window + 1 then
  c.before, c.units = c.units, 0
elseif this > c.window then
  c.before, c.units, c.stage = 0, 0, 0
end
c.window = math.max(c.window, this)
local mine, answered, counted = c.loans[me], tonumber(ARGV[9]), 0
if mine and mine[3] == answered then
  counted = mine[4] -- and its worker never heard of it: it tells the same again, and what came since
end
c.units = c.units + math.max(0, used - counted)
local loans, others, lent = {}, 0, 0
for name, loan in pairs(c.loans) do
  if name ~= me then
    if loan[2] <= now then
      c.units = c.units + loan[1]
    else
      loans[name], others, lent = loan, others + 1, lent + loan[1]
    end
  end
end
local floors = {[0] = share, [1] = math.max(1, math.floor(share / 8)), [2] = 0}
local faded = 1 - (now / size - math.floor(now / size))
local left = math.floor(limit - c.units - c.before * faded)
local reserved, settled = 0, true
for place = 10, #ARGV, 2 do
  if ARGV[place] ~= me then
    local knows = tonumber(ARGV[place + 1]) >= c.raised
    settled = settled and knows
    if not loans[ARGV[place]] then
      reserved = reserved + floors[knows and c.stage or math.max(0, c.stage - 1)]
    end
  end
end
local free = left - lent - math.min(math.floor(limit / 2), reserved) - keep
local extra = math.max(0, math.min(wanted - keep, math.ceil(free / (1 + others))))
loans[me] = {keep + extra, now + life, answered, math.max(used, counted)}
c.loans = loans
local announce = 0
if free - extra < math.floor(limit / 8) + 1 and c.stage < 2 and settled and #ARGV > 11 then
  c.stage, c.raised, c.told = c.stage + 1, 9007199254740992, now
  announce = c.stage
elseif c.stage > 0 and now - c.told >= math.max(size, 2) then
  c.told = now
  announce = c.stage
end
redis.call('SET', KEYS[1], cmsgpack.pack(c), 'EX', math.ceil(2 * size + 60))
local wait = 0
if left <= 0 then
  if c.units < limit then
    wait = math.max(0, (faded - (limit - c.units) / c.before) * size)
  else
    wait = (faded + 1 - limit / c.units) * size
  end
end
return {keep + extra, math.max(0, left), tostring(wait), announce}
"""
)

# KEYS: counter. ARGV: the revision under which its stage was announced.
RAISED = """
local packed = redis.call('GET', KEYS[1])
if packed then
  local c = cmsgpack.unpack(packed)
  c.raised = math.min(c.raised, tonumber(ARGV[1]))
  redis.call('SET', KEYS[1], cmsgpack.pack(c), 'KEEPTTL')
end
"""

# Strict mode. KEYS: the counters of one actor. ARGV: seconds and limit of each. All are charged, or none. Returns 1 or
# 0, then units that fitted before and the wait, for each.
TAKE = (
    _NOW
    + """
local passes, found, counts = 1, {}, {}
for place, key in ipairs(KEYS) do
  local size, limit = tonumber(ARGV[2 * place - 1]), tonumber(ARGV[2 * place])
  local this = math.floor(now / size)
  local window, units, before = unpack(redis.call('HMGET', key, 'w', 'u', 'b'))
  window, units, before = tonumber(window or 0), tonumber(units or 0), tonumber(before or 0)
  if this == window + 1 then
    before, units = units, 0
  elseif this > window then
    before, units = 0, 0
  end
  local faded = 1 - (now / size - this)
  local left = math.ceil(limit - units - before * faded)
  local wait = 0
  if left <= 0 then
    passes = 0
    if units < limit then
      wait = math.max(0, (faded - (limit - units) / before) * size)
    else
      wait = (faded + 1 - limit / units) * size
    end
  end
  found[#found + 1] = math.max(0, left)
  found[#found + 1] = tostring(wait)
  counts[place] = {math.max(this, window), units, before, size}
end
if passes == 1 then
  for place, key in ipairs(KEYS) do
    local window, units, before, size = unpack(counts[place])
    redis.call('HSET', key, 'w', window, 'u', units + 1, 'b', before)
    redis.call('EXPIRE', key, math.ceil(2 * size + 1))
  end
end
return {passes, found}
"""
)

# KEYS: as TAKE. Takes one unit back from each: another actor's quota refused the request.
GIVE_BACK = """
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('HGET', key, 'u') or 0) > 0 then
    redis.call('HINCRBY', key, 'u', -1)
  end
end
"""
