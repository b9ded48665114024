"""Scripts that count in Redis: the same windows of 61 one-second buckets as `window.py`, for all hosts together.

A window is a hash: `s` its newest second, `n` and `t` the sums of requests and tokens, `b` the seconds that the
server's clock stepped back; `r`, `k` and `o` with a bucket's number its requests, its tokens, and those of them that
are open. The clock is the server's own. The epoch is the time at which the server's memory was found empty; it tells a
server that forgot from one that has counted all along.
"""

from __future__ import annotations

from llm_gateway.redis_client.script import Script

_WINDOW = """
local function clock(given)
    if given ~= '' and given ~= '-' then return tonumber(given) end
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function epoch_at(key, now)
    local epoch = redis.call('GET', key)
    if epoch then return tonumber(epoch) end
    redis.call('SET', key, string.format('%d', now))
    return now
end
local function advanced(key, second)
    local found = redis.call('HMGET', key, 's', 'n', 't', 'b')
    local newest, n, t, behind = tonumber(found[1]), tonumber(found[2]), tonumber(found[3]), tonumber(found[4] or 0)
    if not newest then return {key = key, second = second, n = 0, t = 0, is_new = true} end
    second = second + behind
    if second < newest then
        behind = behind + newest - second
        redis.call('HSET', key, 'b', behind)
        second = newest
    end
    if second - newest >= 61 then
        redis.call('DEL', key)
        n, t = 0, 0
    elseif second > newest then
        local old, size = {}, 0
        for passed = newest + 1, second do
            local i = passed % 61
            old[size + 1], old[size + 2], old[size + 3] = 'r' .. i, 'k' .. i, 'o' .. i
            size = size + 3
        end
        local counts = redis.call('HMGET', key, unpack(old))
        for place = 1, size, 3 do
            n = n - (counts[place] or 0)
            t = t - (counts[place + 1] or 0)
        end
        redis.call('HDEL', key, unpack(old))
    end
    if second > newest then
        redis.call('HSET', key, 's', second, 'n', n, 't', t, 'b', behind)
        redis.call('EXPIRE', key, 180)
    end
    return {key = key, second = second, n = n, t = t}
end
"""

_SETTLING = """
local function settle(key, second, reserved, used, unsent)
    local i = second % 61
    local found = redis.call('HMGET', key, 's', 'n', 't', 'r' .. i, 'k' .. i, 'o' .. i)
    local newest = tonumber(found[1])
    if newest and newest - 61 < second and second <= newest then
        local tokens, open = tonumber(found[5] or 0), tonumber(found[6] or 0)
        local left = math.max(tokens + used - reserved, 0)
        unsent = math.min(unsent, tonumber(found[4] or 0))
        redis.call('HSET', key, 'n', found[2] - unsent, 't', found[3] + left - tokens, 'r' .. i,
            (found[4] or 0) - unsent, 'k' .. i, left, 'o' .. i, math.max(open - reserved, 0))
    end
end
"""

TAKE = Script(
    _WINDOW
    + _SETTLING
    + """
-- KEYS: epoch, windows. ARGV, with blanks between: microseconds or -; rpm, tpm and tokens of each window; then what is
-- settled first: number of the window's key, how many calls, and the numbers of each as in the script that settles.
-- Granted: {0, epoch, now, then second, sums, tokens of each}. Full: {place, epoch, now, second, the whole hash}.
local given = {}
for number in string.gmatch(ARGV[1], '%S+') do given[#given + 1] = tonumber(number) or '' end
local at = 3 * #KEYS - 1
while given[at] do
    local last = at + 1 + 4 * given[at + 1]
    for call = at + 2, last, 4 do
        settle(KEYS[given[at]], given[call], given[call + 1], given[call + 2], given[call + 3])
    end
    at = last + 1
end
local now = clock(given[1])
local epoch = epoch_at(KEYS[1], now)
local second = (now - now % 1000000) / 1000000
local windows = {}
for place = 2, #KEYS do
    local window = advanced(KEYS[place], second)
    local first = 3 * place - 4
    window.tokens = given[first + 2]
    if window.n + 1 > given[first] or window.t + window.tokens > given[first + 1] then
        return {place - 1, epoch, now, window.second, redis.call('HGETALL', window.key)}
    end
    windows[place - 1] = window
end
local reply = {0, epoch, now}
for _, window in ipairs(windows) do
    local key, i = window.key, window.second % 61
    window.n, window.t = window.n + 1, window.t + window.tokens
    redis.call('HSET', key, 's', window.second, 'n', window.n, 't', window.t)
    redis.call('HINCRBY', key, 'r' .. i, 1)
    if window.tokens > 0 then
        redis.call('HINCRBY', key, 'k' .. i, window.tokens)
        redis.call('HINCRBY', key, 'o' .. i, window.tokens)
    end
    if window.is_new then redis.call('EXPIRE', key, 180) end
    local size = #reply
    reply[size + 1], reply[size + 2] = window.second, window.n
    reply[size + 3], reply[size + 4] = window.t, window.tokens
end
return reply
"""
)
"""Take one request and tokens from each of the windows, or from none."""

SETTLE = Script(
    _SETTLING
    + """
-- KEYS: a window. ARGV: of each call the second, the reserved and the used tokens, and the requests given back.
local numbers = string.gmatch(ARGV[1], '%d+')
local second = numbers()
while second do
    settle(KEYS[1], tonumber(second), tonumber(numbers()), tonumber(numbers()), tonumber(numbers()))
    second = numbers()
end
return 0
"""
)
"""Correct reservations to what was used."""

ADD = Script(
    _WINDOW
    + """
-- KEYS: a window. ARGV: microseconds or '', then age in seconds, requests and tokens of each second.
local now = clock(ARGV[1])
local second = (now - now % 1000000) / 1000000
local window = advanced(KEYS[1], second)
for place = 2, #ARGV, 3 do
    local age, requests, tokens = tonumber(ARGV[place]), tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
    if age < 61 then
        local i = (window.second - age) % 61
        redis.call('HINCRBY', KEYS[1], 'r' .. i, requests)
        redis.call('HINCRBY', KEYS[1], 'k' .. i, tokens)
        window.n, window.t = window.n + requests, window.t + tokens
    end
end
redis.call('HSET', KEYS[1], 's', window.second, 'n', window.n, 't', window.t)
redis.call('EXPIRE', KEYS[1], 180)
return 0
"""
)
"""Count calls that a host made while it could not ask."""

BEAT = Script(
    _WINDOW
    + """
-- KEYS: epoch, hosts, forgotten. ARGV: microseconds or '', member (host/process), milliseconds after which a process
-- is missing, milliseconds after which it is not expected back, '1' if it says that Redis lost its memory or does not
-- know its calls, '1' for its first heartbeat, the latest time of Redis's clock in microseconds at which it is alive.
-- Returns {epoch, now, hosts, missing processes beside it, milliseconds until all is known again}.
local now = clock(ARGV[1])
local epoch = epoch_at(KEYS[1], now)
local missing_ms, expected_ms, latest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
local before, forgot = redis.call('HGET', KEYS[2], ARGV[2]), ARGV[5] == '1'
if ARGV[6] == '1' and before and math.abs(now - before) / 1000 > missing_ms then forgot = true end
local known_at = tonumber(redis.call('GET', KEYS[3]) or 0)
if forgot then
    known_at = now + 61000000
    redis.call('SET', KEYS[3], string.format('%d', known_at), 'PX', 61000)
end
if latest == 0 or now <= latest then redis.call('HSET', KEYS[2], ARGV[2], string.format('%d', now)) end
redis.call('EXPIRE', KEYS[2], 86400)
local seen, hosts, missing = {}, 0, 0
local all = redis.call('HGETALL', KEYS[2])
for place = 1, #all, 2 do
    local host, age = string.match(all[place], '^[^/]*'), math.abs(now - all[place + 1]) / 1000
    if age > expected_ms then
        redis.call('HDEL', KEYS[2], all[place])
    else
        if not seen[host] then
            seen[host] = true
            hosts = hosts + 1
        end
        if age > missing_ms and all[place] ~= ARGV[2] then missing = missing + 1 end
    end
end
return {epoch, now, hosts, missing, math.max(math.ceil((known_at - now) / 1000), 0)}
"""
)
"""Say that a process lives, and count the hosts, and the other processes that have not said so for a while."""

LEAVE = Script("return redis.call('HDEL', KEYS[1], ARGV[1])")
"""Say that a process has ended."""
