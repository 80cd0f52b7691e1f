// A caller of the plain Streams worker: an entry for each call, and a list of its own for the answers.

import { randomBytes } from "node:crypto";
import { createClient } from "redis";

export const [STREAM, GROUP] = ["jobs", "workers"];

export async function connect(path) {
  const open = () => createClient({ socket: { path } }).connect();
  const [redis, answers] = [await open(), await open()];
  const reply = `answers:${randomBytes(8).toString("hex")}`;
  const waiting = new Map();
  let next = 0;

  const listen = async () => {
    for (;;) {
      const popped = await answers.blmPop(0, [reply], "LEFT", { COUNT: 100 });
      for (const text of popped?.[1] ?? []) {
        const { id, answer } = JSON.parse(text);
        waiting.get(id)?.resolve(answer);
        waiting.delete(id);
      }
    }
  };
  listen().catch((error) => {
    for (const call of waiting.values()) call.reject(error);
  });

  return {
    call: (body) =>
      new Promise((resolve, reject) => {
        const id = String(next++);
        waiting.set(id, { resolve, reject });
        redis.xAdd(STREAM, "*", { id, reply, body: JSON.stringify(body) }).catch(reject);
      }),
  };
}
