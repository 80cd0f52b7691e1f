// A caller of Baton: nothing but node-redis and docs/protocol.md.

import { randomBytes } from "node:crypto";
import { createClient, RESP_TYPES } from "redis";

// A result document, or several back to back.
function* documents(data) {
  while (data?.length) {
    const line = data.indexOf("\n");
    const head = JSON.parse(data.toString("utf8", 0, line));
    const end = line + 1 + head.length;
    yield { head, text: data.toString("utf8", line + 1, end) };
    data = data.subarray(end);
  }
}

export async function connect(path) {
  const open = () => createClient({ socket: { path } }).connect();
  const [redis, notices] = [await open(), await open()];
  const bytes = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const me = randomBytes(8).toString("hex");
  const waiting = new Map();
  let next = 0;

  const settle = (data) => {
    for (const { head, text } of documents(data)) {
      const call = waiting.get(head.id);
      if (!call) continue;
      waiting.delete(head.id);
      if (head.status === "ok") call.resolve([head, text]);
      else call.reject(new Error(`${head.status}: ${head.error?.message}`));
    }
  };
  await notices.subscribe(`baton:reply:${me}`, settle, true);
  // A notice can be missed, the result cannot: what was silent for a second is looked for.
  setInterval(() => {
    const silent = performance.now() - 1000;
    for (const call of waiting.values()) if (call.at < silent) bytes.get(call.result).then(settle, () => {});
  }, 1000).unref();

  return {
    async call(body) {
      const fn = body.ms ? "default/sleep" : "default/echo";
      const id = `${me}-${next++}`;
      const [head, text] = await new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject, at: performance.now(), result: `baton:{${fn}}:result:${id}` });
        redis.xAdd(`baton:{${fn}}:calls`, "*", { payload: JSON.stringify(body), id, reply: me }).catch(reject);
      });
      return body.ms ? { attempts: head.attempts, text } : JSON.parse(text);
    },
  };
}
