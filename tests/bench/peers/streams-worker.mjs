// A worker on plain Redis Streams as it is often written first: node streams-worker.mjs SOCKET
//
// It reads, works, answers and acknowledges. What other workers left behind it claims once, when it starts, if nobody
// touched it for 30 s: with a shorter time it would take calls away from those that still work on them.

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "redis";
import { GROUP, STREAM } from "./streams.mjs";

const [COUNT, BLOCK, CLAIM_IDLE] = [100, 5000, 30_000];
const me = `${hostname()}-${process.pid}`;

const open = () => createClient({ socket: { path: process.argv[2] } }).connect();
const [redis, reader] = [await open(), await open()];
await redis.xGroupCreate(STREAM, GROUP, "0", { MKSTREAM: true }).catch((error) => {
  if (!error.message.startsWith("BUSYGROUP")) throw error;
});

async function handle({ id: entry, message }, attempts) {
  const body = JSON.parse(message.body);
  if (body.ms) await sleep(body.ms);
  const answer = body.ms ? { attempts } : body;
  await Promise.all([
    redis.rPush(message.reply, JSON.stringify({ id: message.id, answer })),
    redis.xAck(STREAM, GROUP, entry),
    redis.xDel(STREAM, entry),
  ]);
}

let from = "0-0";
do {
  const claimed = await redis.xAutoClaim(STREAM, GROUP, me, CLAIM_IDLE, from, { COUNT });
  from = claimed.nextId;
  await Promise.all(claimed.messages.filter(Boolean).map((entry) => handle(entry, 2)));
} while (from !== "0-0");

console.log("ready");
for (;;) {
  const read = await reader.xReadGroup(GROUP, me, { key: STREAM, id: ">" }, { COUNT, BLOCK });
  await Promise.all((read?.[0].messages ?? []).map((entry) => handle(entry, 1)));
}
