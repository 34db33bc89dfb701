/**
 * Lua: one atomic step each, on the primary (a replica answers READONLY). ioredis sends the text on a connection's first
 * use, the hash after that, and the text again where the server answers NOSCRIPT.
 */

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
 * KEYS: epoch, mark. ARGV: issued_ms, forget_ms. A restart or a fail-over changes master_replid, and an empty server has
 * no epoch: in both cases marks may be gone, and what was issued before can't be told from what was used.
 */
const ONCE = `${EPOCH}
if redis.call('EXISTS', KEYS[2]) == 1 then return 'seen' end
if tonumber(ARGV[1]) < since then return 'lost' end
redis.call('SET', KEYS[2], '1', 'PX', string.format('%.0f', math.max(1000, tonumber(ARGV[2]) - now)))
return 'marked'
`;

const PRIME = `${EPOCH}
return 'OK'
`;

/**
 * GCRA. KEYS: the theoretical arrival time (TAT). ARGV: milliseconds per call, burst. A call conforms when the TAT is no
 * further ahead than the burst allows; a refused one changes nothing. Returns {1, remaining} or {0, wait in ms}.
 */
const TAKE = `
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local every = tonumber(ARGV[1])
local burst = tonumber(ARGV[2])
local tat = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
local ahead = tat + every - now
local room = every * burst
if ahead > room + 0.001 then return {0, math.ceil(ahead - room)} end
redis.call('SET', KEYS[1], string.format('%.3f', tat + every), 'PX', math.ceil(ahead))
return {1, math.floor((room - ahead) / every + 0.001)}
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
  caracalOnce: { lua: ONCE, numberOfKeys: 2 },
  caracalPrime: { lua: PRIME, numberOfKeys: 1 },
  caracalTake: { lua: TAKE, numberOfKeys: 1 },
  caracalBury: { lua: BURY, numberOfKeys: 3 },
};

/** The scripts as a pipeline's methods: keys first, then arguments. */
export type Scripts = Readonly<Record<keyof typeof SCRIPTS, (...args: (string | number)[]) => unknown>>;
