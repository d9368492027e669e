"""What is done to windows in one step, as scripts of the server.

Under the prefix of a scope there are: ``mark``, what counts for all windows; ``open``, ``waiting`` and ``closed``, the
starts of windows; and for each window ``w:`` its counts, ``s:`` the states by key, ``e:`` the events that it counted,
``h:`` the keys that are to be handed out and ``t:`` the tokens of those that do. ``x:`` is there while a token holds.

The states of a key are JSON behind a tag, other in every write: who changes them tells the tag of what was read.
"""

from __future__ import annotations

from cloudevents_kit.stores.redis._server import Script

TAG = 12

_COMMON = """
local P = string.sub(KEYS[1], 1, -5)
local function number(key, field) return tonumber(redis.call('HGET', key, field) or '0') end
local function status()
  return {
    redis.call('ZCARD', P .. 'open'), redis.call('ZCARD', P .. 'waiting'), redis.call('ZCARD', P .. 'closed'),
    number(KEYS[1], 'keys'), number(KEYS[1], 'remembered'),
  }
end
"""
_FINISHING = """
local function finish(start, keep)
  redis.call('ZREM', P .. 'waiting', start)
  redis.call('ZADD', P .. 'closed', start, start)
  redis.call('UNLINK', P .. 'h:' .. start, P .. 't:' .. start)
  local over = redis.call('ZCARD', P .. 'closed') - tonumber(keep)
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', P .. 'closed', 0, over - 1)) do
      redis.call('HINCRBY', KEYS[1], 'keys', -number(P .. 'w:' .. old, 'keys'))
      redis.call('UNLINK', P .. 'w:' .. old, P .. 's:' .. old)
      redis.call('ZREM', P .. 'closed', old)
    end
  end
end
"""

#: ARGV[1] has chains: start, which of ARGV is the key, the tag that was read ('' if there was nothing), what to write,
#: and the events that make this of that, each with whether it may be anywhere, and whether its fold failed. ARGV[2] is
#: 1 if this may have been done before: then the answer is what it was; it is kept for ARGV[3] milliseconds, or until a
#: later call tells that it has come. It has, for each chain, one letter for each event, and the states that are there
#: if one is 'a' for again; and the status.
ADD = Script(
    _COMMON
    + """
local ask = cmsgpack.unpack(ARGV[1])
local kept = P .. 'x:' .. ask.token
if ARGV[2] == '1' then
  local before = redis.call('GET', kept)
  if before then return before end
end
local before = redis.call('HGET', KEYS[1], 'before')
local remembered = number(KEYS[1], 'remembered')
local opened

local function seen(start, event, anywhere)
  if redis.call('SISMEMBER', P .. 'e:' .. start, event) == 1 then return true end
  if anywhere then
    opened = opened or redis.call('ZRANGE', P .. 'open', 0, -1)
    for _, other in ipairs(opened) do
      if redis.call('SISMEMBER', P .. 'e:' .. other, event) == 1 then return true end
    end
  end
  return false
end

local function apply(start, key, new, items, codes, is_new)
  local counted, unremembered = 0, 0
  for place, item in ipairs(items) do
    if not codes[place] then
      if item[3] then
        codes[place] = 'f'
      else
        counted = counted + 1
        if remembered >= ask.events then
          unremembered = unremembered + 1
          codes[place] = 'u'
        else
          remembered = remembered + 1
          redis.call('SADD', P .. 'e:' .. start, item[1])
          codes[place] = 'c'
        end
      end
    end
  end
  if counted == 0 then return end
  redis.call('HSET', P .. 's:' .. start, key, new)
  redis.call('HINCRBY', P .. 'w:' .. start, 'events', counted)
  redis.call('HINCRBY', P .. 'w:' .. start, 'unremembered', unremembered)
  if is_new then
    redis.call('HINCRBY', P .. 'w:' .. start, 'keys', 1)
    redis.call('HINCRBY', KEYS[1], 'keys', 1)
    redis.call('ZADD', P .. 'open', start, start)
    opened = nil
  end
end

local answers = {}
for _, chain in ipairs(ask.chains) do
  local start, key, tag, new, items = chain[1], ARGV[chain[2]], chain[3], chain[4], chain[5]
  local window, codes, current, all = P .. 'w:' .. start, {}, '', nil
  local is_open = redis.call('ZSCORE', P .. 'open', start)
  if before and tonumber(start) < tonumber(before) then
    all = 'l'
  elseif not is_open and redis.call('ZCARD', P .. 'open') + redis.call('ZCARD', P .. 'waiting') >= ask.windows then
    all = 'o'
  end
  if all then
    for place in ipairs(items) do codes[place] = all end
  else
    local found = redis.call('HGET', P .. 's:' .. start, key)
    local again = string.sub(found or '', 1, #ask.token) ~= tag
    for place, item in ipairs(items) do
      if seen(start, item[1], item[2]) then
        codes[place] = 'r'
        again = again or not item[3]
      end
    end
    local full = not found and is_open and number(window, 'keys') >= ask.keys
    if full or again then
      for place in ipairs(items) do
        if not codes[place] then
          codes[place] = full and 'o' or 'a'
          if full then redis.call('HINCRBY', window, 'overflow', 1) end
        end
      end
      current = found or ''
    else
      apply(start, key, new, items, codes, not found)
    end
  end
  answers[#answers + 1] = table.concat(codes)
  answers[#answers + 1] = current
end
redis.call('HSET', KEYS[1], 'remembered', remembered)
local told = cmsgpack.pack({answers, status()})
redis.call('SET', kept, told, 'PX', ARGV[3])
if ask.answered ~= '' then redis.call('DEL', P .. 'x:' .. ask.answered) end  -- behind what a full server refuses
return told
"""
)

#: ARGV: close what starts before, 1 to hand nothing out, closed windows to keep, keys after which to stop for now.
#: Answers with 1 if there is more to do, and the status.
CLOSE = Script(
    _COMMON
    + _FINISHING
    + """
local before, silently, keep, most = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local mark = redis.call('HGET', KEYS[1], 'before')
if mark and tonumber(mark) >= tonumber(before) then
  before = mark
else
  redis.call('HSET', KEYS[1], 'before', before)
end
local handled = 0
for _, start in ipairs(redis.call('ZRANGEBYSCORE', P .. 'open', '-inf', '(' .. before)) do
  if handled >= most then return {1, status()} end
  local window = P .. 'w:' .. start
  handled = handled + 1 + number(window, 'keys')
  redis.call('HINCRBY', KEYS[1], 'remembered', number(window, 'unremembered') - number(window, 'events'))
  redis.call('UNLINK', P .. 'e:' .. start)
  redis.call('ZREM', P .. 'open', start)
  redis.call('ZADD', P .. 'waiting', start, start)
  if not silently then
    for _, key in ipairs(redis.call('HKEYS', P .. 's:' .. start)) do redis.call('ZADD', P .. 'h:' .. start, 0, key) end
  end
end
if silently then
  for _, start in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do finish(start, keep) end
end
return {0, status()}
"""
)

#: ARGV: a token, milliseconds for which it holds, the start and the key behind which to begin ('-inf' and '' for all),
#: and how many to take. Answers with start, key, states and number of events that were not remembered, for each.
TAKE = Script(
    _COMMON
    + """
local token, after, behind, most = ARGV[1], ARGV[3], ARGV[4], tonumber(ARGV[5])
redis.call('SET', P .. 'x:' .. token, '', 'PX', ARGV[2])
local holds, taken = {[token] = 0}, {}

local function is_free(holder)
  if not holder then return true end
  holds[holder] = holds[holder] or redis.call('EXISTS', P .. 'x:' .. holder)
  return holds[holder] == 0
end

for _, start in ipairs(redis.call('ZRANGEBYSCORE', P .. 'waiting', after, '+inf')) do
  local low = start == after and '(' .. behind or '-'
  local unremembered = redis.call('HGET', P .. 'w:' .. start, 'unremembered') or '0'
  repeat
    local page = redis.call('ZRANGEBYLEX', P .. 'h:' .. start, low, '+', 'LIMIT', 0, 100)
    for _, key in ipairs(page) do
      if is_free(redis.call('HGET', P .. 't:' .. start, key)) then
        redis.call('HSET', P .. 't:' .. start, key, token)
        for _, part in ipairs({start, key, redis.call('HGET', P .. 's:' .. start, key), unremembered}) do
          taken[#taken + 1] = part
        end
        if #taken == 4 * most then return taken end
      end
      low = '(' .. key
    end
  until #page == 0
end
return taken
"""
)

#: ARGV[1] is how many closed windows to keep; then come start, key and token of each that was handed out. Answers with
#: the status.
DONE = Script(
    _COMMON
    + _FINISHING
    + """
for place = 2, #ARGV, 3 do
  local start, key, token = ARGV[place], ARGV[place + 1], ARGV[place + 2]
  if redis.call('HGET', P .. 't:' .. start, key) == token then
    redis.call('ZREM', P .. 'h:' .. start, key)
    redis.call('HDEL', P .. 't:' .. start, key)
    if redis.call('ZCARD', P .. 'h:' .. start) == 0 then finish(start, ARGV[1]) end
  end
end
return status()
"""
)

#: ARGV: key, and start or ''. Answers with start, states, whether the window is open, and its unremembered events.
READ = Script(
    _COMMON
    + """
local function told(start)
  local found = redis.call('HGET', P .. 's:' .. start, ARGV[1])
  if not found then return false end
  local is_open = redis.call('ZSCORE', P .. 'open', start)
  return {start, found, is_open and 1 or 0, number(P .. 'w:' .. start, 'unremembered')}
end
if ARGV[2] ~= '' then return told(ARGV[2]) end
local starts = {}
for _, part in ipairs({'open', 'waiting', 'closed'}) do
  for _, start in ipairs(redis.call('ZRANGE', P .. part, 0, -1)) do starts[#starts + 1] = start end
end
table.sort(starts, function(one, other) return tonumber(one) > tonumber(other) end)
for _, start in ipairs(starts) do
  local found = told(start)
  if found then return found end
end
return false
"""
)

#: Answers with start, whether it is open, and counts, for each.
LIST = Script(
    _COMMON
    + """
local told = {}
for _, part in ipairs({'open', 'waiting', 'closed'}) do
  for _, start in ipairs(redis.call('ZRANGE', P .. part, 0, -1)) do
    local window = P .. 'w:' .. start
    told[#told + 1] = {
      start, part == 'open' and 1 or 0, number(window, 'keys'), number(window, 'events'), number(window, 'overflow'),
    }
  end
end
return told
"""
)
