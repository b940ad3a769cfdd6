"""The ledger's atomic steps, as Lua: each one runs alone in the broker, by the broker's clock."""

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS pending list, due. ARGV shard key prefix, member prefix, redeliver_ms. -> the name of the shard to send, or nil.
TAKE = (
    NOW
    + """
while true do
  local name = redis.call('LPOP', KEYS[1])
  if not name then return nil end
  if redis.call('HGET', ARGV[1] .. name, 'state') == 'pending' then
    redis.call('HSET', ARGV[1] .. name, 'state', 'queued')
    redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2] .. name)
    return name
  end
end
"""
)

# KEYS run, shard, due. ARGV member, lease_ms, worker, message. -> {'ok', token, fields...} or {reason}.
CLAIM = (
    NOW
    + """
local run_state = redis.call('HGET', KEYS[1], 'state')
if run_state ~= 'running' then return {run_state or 'gone'} end
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return {'done'} end
if state == 'running' then return {'running'} end
-- From the clock, so that no worker of a run that was deleted holds the token of one with the same name.
local token = math.max(time[1] * 1000000 + time[2], (redis.call('HGET', KEYS[2], 'token') or 0) + 1)
redis.call('HINCRBY', KEYS[1], 'running', redis.call('HGET', KEYS[2], 'count'))
redis.call('HSET', KEYS[2], 'state', 'running', 'worker', ARGV[3], 'message', ARGV[4], 'token', token)
redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[1])
local answer = redis.call('HGETALL', KEYS[2])
redis.call('HSET', KEYS[2], 'look', '1')  -- whoever comes next finds pictures of this try
table.insert(answer, 1, token)
table.insert(answer, 1, 'ok')
return answer
"""
)

# A fencing token that is not the newest stops everything that follows it: KEYS[2] is the shard, ARGV[1] the token. So
# does a run (KEYS[1]) that is being deleted: nothing may bring a part of it back.
HOLD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] or redis.call('HGET', KEYS[2], 'state') ~= 'running' then
  return 'lost'
end
"""

# KEYS run, shard, due. ARGV token, member, lease_ms. -> the run's state, or 'lost'.
EXTEND = (
    NOW
    + HOLD
    + """
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
return redis.call('HGET', KEYS[1], 'state') or 'gone'
"""
)

# KEYS run, shard. ARGV token, rows (JSON). -> the run's state, or 'lost'.
MARK_ROWS = (
    HOLD
    + """
redis.call('HSET', KEYS[2], 'running_rows', ARGV[2])
return redis.call('HGET', KEYS[1], 'state') or 'gone'
"""
)

# KEYS run, shard, due, pending list. ARGV token, member, shard name. Hands a shard back; nobody is charged.
RELEASE = (
    HOLD
    + """
redis.call('HSET', KEYS[2], 'state', 'pending')
redis.call('HDEL', KEYS[2], 'running_rows', 'worker', 'message', 'exit')
redis.call('HINCRBY', KEYS[1], 'running', -redis.call('HGET', KEYS[2], 'count'))
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('RPUSH', KEYS[4], ARGV[3])
return 'ok'
"""
)

# KEYS run, shard, due, done bitmap, failed bitmap, finishing, lane. ARGV token, member, run name, done rows (JSON),
# failed rows (JSON), dead rows (JSON), images. -> 'ok', 'last' (no row is open any more), 'lost' or 'gone'.
COMMIT = (
    HOLD
    + """
local closed = 0
for _, row in ipairs(cjson.decode(ARGV[4])) do
  if redis.call('SETBIT', KEYS[4], row, 1) == 0 then
    redis.call('HINCRBY', KEYS[1], 'done', 1)
    if redis.call('SETBIT', KEYS[5], row, 0) == 1 then
      redis.call('HINCRBY', KEYS[1], 'failed', -1)  -- it was closed already, and worse
    else
      closed = closed + 1
    end
  end
end
for name, rows in pairs({failed = cjson.decode(ARGV[5]), dead = cjson.decode(ARGV[6])}) do
  for _, row in ipairs(rows) do
    if redis.call('GETBIT', KEYS[4], row) == 0 and redis.call('SETBIT', KEYS[5], row, 1) == 0 then
      closed = closed + 1
      redis.call('HINCRBY', KEYS[1], name, 1)
    end
  end
end
redis.call('HINCRBY', KEYS[1], 'images', ARGV[7])
redis.call('HINCRBY', KEYS[1], 'running', -redis.call('HGET', KEYS[2], 'count'))
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
if redis.call('HINCRBY', KEYS[1], 'open', -closed) > 0 then return 'ok' end
redis.call('HSET', KEYS[1], 'state', 'finishing')
redis.call('HINCRBY', KEYS[1], 'ends', 1)
-- Shards that were put back as lost and then claimed by a late message still stand in these lists.
for _, model in ipairs(cjson.decode(redis.call('HGET', KEYS[1], 'models') or '[]')) do
  redis.call('DEL', KEYS[1] .. ':pending:' .. model)
end
redis.call('SADD', KEYS[6], ARGV[3])
redis.call('ZREM', KEYS[7], ARGV[3])
return 'last'
"""
)

# KEYS run. ARGV new state, the states that lead to it. -> the state before.
SWITCH = """
local state = redis.call('HGET', KEYS[1], 'state') or 'gone'
for i = 2, #ARGV do
  if state == ARGV[i] then redis.call('HSET', KEYS[1], 'state', ARGV[1]) end
end
return state
"""

# KEYS run, finishing, lane. ARGV run name. Nobody starts a shard of the run any more. -> the state before.
CANCEL = """
local state = redis.call('HGET', KEYS[1], 'state') or 'gone'
if state == 'running' or state == 'paused' then
  redis.call('HSET', KEYS[1], 'state', 'canceled')
  redis.call('SADD', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
end
return state
"""

# KEYS run, finishing, lane. ARGV run name. Rows of an ended run went out again. A run that a person has paused or
# canceled stays that.
REOPEN = """
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'finishing' or state == 'over' then
  redis.call('HSET', KEYS[1], 'state', 'running')
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('ZADD', KEYS[3], 0, ARGV[1])
end
"""

# KEYS run. A canceled run that nobody works on any more: what is open is canceled. -> its state, or 'settled', also
# where that was done before: whoever did it may have died before it cleared what is left.
SETTLE = """
local state = redis.call('HGET', KEYS[1], 'state') or 'gone'
if state == 'finishing' and tonumber(redis.call('HGET', KEYS[1], 'canceled') or 0) > 0 then return 'settled' end
if state ~= 'canceled' or tonumber(redis.call('HGET', KEYS[1], 'running') or 0) > 0 then return state end
redis.call('HSET', KEYS[1], 'state', 'finishing', 'canceled', redis.call('HGET', KEYS[1], 'open'), 'open', 0)
redis.call('HINCRBY', KEYS[1], 'ends', 1)
return 'settled'
"""

# KEYS run, shard, due. ARGV member, message, text. The process that a message had come to is gone: its lease need not
# run out. By the message, because such news comes late, when the same worker may be at the same shard again.
NOTE_EXIT = (
    NOW
    + """
if redis.call('HGET', KEYS[2], 'state') ~= 'running' or redis.call('HGET', KEYS[2], 'message') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[2], 'exit', ARGV[3])
redis.call('ZADD', KEYS[3], now, ARGV[1])
return 1
"""
)

# KEYS run, finishing. ARGV run name, its number of ends when its end files were begun. A run whose rows went out again
# meanwhile is not over, and one that ended again since needs new end files. -> whether it is over.
END = """
if (redis.call('HGET', KEYS[1], 'ends') or '0') ~= ARGV[2] then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
local state = redis.call('HGET', KEYS[1], 'state') or 'over'
if state == 'finishing' then redis.call('HSET', KEYS[1], 'state', 'over') end
return (state == 'finishing' or state == 'over') and 1 or 0
"""

# A shard that was read as over its time, and has not changed since: KEYS[2], KEYS[3] as above;
# ARGV member, state, token.
STILL_EXPIRED = (
    NOW
    + """
local score = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not score or tonumber(score) > now then return 0 end
if redis.call('HGET', KEYS[2], 'state') ~= ARGV[2] then return 0 end
if (redis.call('HGET', KEYS[2], 'token') or '0') ~= ARGV[3] then return 0 end
"""
)

# KEYS run, shard, due. ARGV member, state, token, lease_ms. Takes the lease of a worker that died. -> token or 0.
SEIZE = (
    STILL_EXPIRED
    + """
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1])
return redis.call('HINCRBY', KEYS[2], 'token', 1)
"""
)

# KEYS run, shard, due. ARGV member, state, token, delay_ms. Looks at the shard again later.
POSTPONE = (
    STILL_EXPIRED
    + """
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1])
return 1
"""
)

# KEYS run, shard, due, pending list. ARGV member, state, token, shard name, fields of the shard (JSON),
# isolated shards {name: fields} (JSON), key prefix of shards. Replaces an expired shard by what was decided, at once.
REPLACE = (
    STILL_EXPIRED
    + """
local function store(key, fields)
  for name, value in pairs(fields) do redis.call('HSET', key, name, value) end
end
if ARGV[2] == 'running' then
  redis.call('HINCRBY', KEYS[1], 'running', -redis.call('HGET', KEYS[2], 'count'))
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[2], 'running_rows', 'worker', 'message', 'exit')
for name, fields in pairs(cjson.decode(ARGV[6])) do
  store(ARGV[7] .. name, fields)
  redis.call('RPUSH', KEYS[4], name)
end
local rest = cjson.decode(ARGV[5])
if rest.count == '0' then
  redis.call('DEL', KEYS[2])
else
  store(KEYS[2], rest)
  redis.call('LPUSH', KEYS[4], ARGV[4])
end
return 1
"""
)
