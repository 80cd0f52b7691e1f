// A caller of BullMQ that adds all calls that are due in one go.

import { connect as each } from "./bullmq.mjs";

export async function connect(path) {
  const { queue, events, call } = await each(path);
  const callMany = (bodies) => {
    const added = queue.addBulk(bodies.map((data) => ({ name: "call", data })));
    return bodies.map(async (_, n) => (await added)[n].waitUntilFinished(events));
  };
  return { call, callMany };
}
