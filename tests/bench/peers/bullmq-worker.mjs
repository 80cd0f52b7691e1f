// The worker of BullMQ: node bullmq-worker.mjs SOCKET
//
// Locks of 30 s, a look for stalled jobs every 30 s, and one more chance for a stalled job: BullMQ's own defaults.

import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "bullmq";
import { QUEUE } from "./bullmq.mjs";

// The manual advises 100 to 300 for jobs that wait more than they compute; the default is 1.
const CONCURRENCY = 100;

const worker = new Worker(
  QUEUE,
  async ({ data, attemptsStarted }) => {
    if (!data.ms) return data;
    await sleep(data.ms);
    return { attempts: attemptsStarted };
  },
  { connection: { path: process.argv[2] }, concurrency: CONCURRENCY },
);
worker.on("error", (error) => console.error(error));
await worker.waitUntilReady();
console.log("ready");
