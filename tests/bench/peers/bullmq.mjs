// A caller of BullMQ: a job for each call, and its result awaited as the manual has it.

import { Queue, QueueEvents } from "bullmq";

export const QUEUE = "echo";

// Finished jobs are kept for an hour, as Baton keeps results; without a rule BullMQ keeps them for ever.
export const options = { removeOnComplete: { age: 3600 }, removeOnFail: { age: 3600 } };

export async function connect(path) {
  const connection = { path };
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: options });
  const events = new QueueEvents(QUEUE, { connection });
  // One listener a call is how a job is waited for.
  events.setMaxListeners(0);
  queue.setMaxListeners(0);
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady()]);
  return { queue, events, call: async (body) => (await queue.add("call", body)).waitUntilFinished(events) };
}
