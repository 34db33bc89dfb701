import { hash } from "node:crypto";

/**
 * Lua: one atomic step each, on the primary (a replica answers READONLY). The texts go to the server when a connection is
 * made, their hashes after that, and a text again where the server answers NOSCRIPT.
 */
export type Script = { readonly lua: string; readonly sha1: string };

const script = (lua: string): Script => ({ lua, sha1: hash("sha1", lua) });

/** Loads `since`: the moment from which the memory of marks is known to be whole, in this server's milliseconds. */
const EPOCH = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local epoch = redis.call('HMGET', KEYS[1], 'replid', 'since_ms')
local since = tonumber(epoch[2])
if epoch[1] ~= replid or not since then
  since = now
  redis.call('HSET', KEYS[1], 'replid', replid, 'since_ms', string.format('%.0f', now))
end
`;

/**
 * KEYS: epoch, then marks. ARGV: for each mark issued_ms, and for how many milliseconds it is kept. Returns a letter for
 * each: m(arked), s(een), l(ost). A restart or a fail-over changes master_replid, and an empty server has no epoch: in
 * both cases marks may be gone, and what was issued before can't be told from what was used. One look at the epoch serves
 * all marks of a call: nothing comes between them.
 */
const ONCE = `${EPOCH}
local told = {}
for i = 2, #KEYS do
  local issued = tonumber(ARGV[2 * i - 3])
  if issued < since then
    told[i - 1] = redis.call('EXISTS', KEYS[i]) == 1 and 's' or 'l'
  else
    told[i - 1] = redis.call('SET', KEYS[i], '1', 'PX', ARGV[2 * i - 2], 'NX') and 'm' or 's'
  end
end
return table.concat(told)
`;

const PRIME = `${EPOCH}
return 'OK'
`;

/**
 * GCRA for n calls at one instant. KEYS: the theoretical arrival time (TAT). ARGV: microseconds per call, burst, n. A call
 * conforms when the TAT is no further ahead than the burst allows; a refused one changes nothing. Whole microseconds, so
 * that n calls at once come to the very same as one after the other. A TAT further ahead than that was left by another limit,
 * or before the clock was set back: it is no reason to wait longer than the burst takes. Returns how many pass, how many more could, and for
 * those refused the wait in milliseconds.
 */
const TAKE = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local every = tonumber(ARGV[1])
local room = every * tonumber(ARGV[2])
local asked = tonumber(ARGV[3])
local tat = math.min(math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0')), now + room)
local passed = math.max(0, math.min(asked, math.floor((room - (tat - now)) / every)))
if passed > 0 then
  tat = tat + passed * every
  redis.call('SET', KEYS[1], tat, 'PX', math.ceil((tat - now) / 1000))
end
local left = room - (tat - now)
return {passed, math.max(0, math.floor(left / every)), math.max(1, math.ceil((every - left) / 1000))}
`;

/**
 * KEYS: dead letters, mark, source. ARGV: group or '', entry id, seconds to remember, most entries or 0, then fields.
 * Of the replicas that read one broadcast entry the first puts it there; the acknowledgement comes in the same step.
 */
const BURY = `
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then
  if ARGV[4] == '0' then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))
  else
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
  end
end
if ARGV[1] ~= '' then redis.call('XACK', KEYS[3], ARGV[1], ARGV[2]) end
return 'OK'
`;

export const SCRIPTS = {
  once: script(ONCE),
  prime: script(PRIME),
  take: script(TAKE),
  bury: script(BURY),
} as const;
