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

TURN = Script(
    _WINDOW
    + """
-- KEYS: epoch, windows. ARGV, with blanks between: microseconds or -; of each window rpm and tpm, or 0 and 0 if nothing
-- is asked of it, how many seconds are settled, and of each second itself, reserved and used tokens and requests given
-- back, how many calls ask of it alone, and the tokens of each; how many groups of windows are asked of together, and
-- of each how many windows, how many calls, the numbers of the keys, and of each call the tokens in each window.
-- Returns {epoch, now, then of each window that calls ask of second, sums, then 0, or {the whole hash, the numbers of
-- the calls that are refused}, then of each group 0, or of each call the place of the first window that is full, or 0}.
local given = {}
for number in string.gmatch(ARGV[1], '%S+') do given[#given + 1] = tonumber(number) or '' end
local now = clock(given[1])
local epoch = epoch_at(KEYS[1], now)
local second = (now - now % 1000000) / 1000000
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
local function fits(window, tokens)
    return window.n + 1 <= window.rpm and window.t + tokens <= window.tpm
end
local function take(window, tokens)
    window.n, window.t = window.n + 1, window.t + tokens
    window.calls, window.tokens = window.calls + 1, window.tokens + tokens
end
local at, windows, several = 2, {}, {}
for place = 2, #KEYS do
    local key, rpm, tpm, last = KEYS[place], given[at], given[at + 1], at + 2 + 4 * given[at + 2]
    for call = at + 3, last, 4 do
        settle(key, given[call], given[call + 1], given[call + 2], given[call + 3])
    end
    at = last + 1
    if rpm > 0 then
        local window, refused = advanced(key, second), {}
        window.rpm, window.tpm, window.calls, window.tokens, window.refused = rpm, tpm, 0, 0, refused
        for number = 1, given[at] do
            local tokens = given[at + number]
            if fits(window, tokens) then take(window, tokens) else refused[#refused + 1] = number end
        end
        window.is_full = #refused > 0
        windows[place] = window
    end
    at = at + given[at] + 1
end
for group = 1, given[at] do
    local size, calls, keys, is_full, places = given[at + 1], given[at + 2], at + 2, false, {}
    for call = 1, calls do
        local tokens, full = keys + size * call, 0
        for place = size, 1, -1 do
            if not fits(windows[given[keys + place]], given[tokens + place]) then full = place end
        end
        if full > 0 then
            windows[given[keys + full]].is_full, is_full = true, true
        else
            for place = 1, size do take(windows[given[keys + place]], given[tokens + place]) end
        end
        places[call] = full
    end
    several[group] = is_full and places or 0
    at = keys + size * (calls + 1)
end
local reply = {epoch, now}
for place = 2, #KEYS do
    local window, key = windows[place], KEYS[place]
    if window then
        if window.calls > 0 then
            local i = window.second % 61
            redis.call('HSET', key, 's', window.second, 'n', window.n, 't', window.t)
            redis.call('HINCRBY', key, 'r' .. i, window.calls)
            if window.tokens > 0 then
                redis.call('HINCRBY', key, 'k' .. i, window.tokens)
                redis.call('HINCRBY', key, 'o' .. i, window.tokens)
            end
            if window.is_new then redis.call('EXPIRE', key, 180) end
        end
        local size = #reply
        reply[size + 1], reply[size + 2], reply[size + 3] = window.second, window.n, window.t
        reply[size + 4] = window.is_full and {redis.call('HGETALL', key), window.refused} or 0
    end
end
for group = 1, #several do reply[#reply + 1] = several[group] end
return reply
"""
)
"""Settle, and take what fits: all that the calls of one turn ask of a limiter's windows."""

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
