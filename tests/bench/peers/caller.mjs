// Calls one peer and says what came of it: node caller.mjs PEER ADDRESS
//
// PEER is the name of a file here, ADDRESS the socket of its Redis or its URL. Orders come as lines of JSON on standard
// input, events go as lines of JSON to standard output, and the end of the input ends it. The driver is the same for every
// peer; a peer's file only knows how one call is made.

import { createInterface } from "node:readline";

const [peerName, address] = process.argv.slice(2);
const peer = await (await import(`./${peerName}.mjs`)).connect(address);

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

// A body with a number in it that is 100 bytes long as JSON, as all callers of the benchmark send it.
let next = 0;
const body = (more) => ({ name: String(next++).padStart(8, "0").padEnd(89, "x"), ...more });

// Keeps so many calls under way: first to warm up, then for the measured window; then waits for the last answers.
function window({ in_flight, warm_up_ms, window_ms }) {
  return new Promise((resolve, reject) => {
    const took = [];
    let state = "warm-up";
    let [underWay, due, planned] = [0, 0, false];
    let begun;

    const answered = (sent, at, answer) => {
      if (answer.name !== sent.name) return reject(new Error(`${peerName} answers ${JSON.stringify(answer)}`));
      if (state === "measured") took.push(performance.now() - at);
      underWay -= 1;
      if (state !== "over") again();
      else if (underWay === 0) resolve();
    };
    const one = () => {
      const [sent, at] = [body(), performance.now()];
      underWay += 1;
      peer.call(sent).then((answer) => answered(sent, at, answer), reject);
    };
    // A peer that takes calls in bulk gets all that are due by the end of a turn of the event loop at once.
    const bulk = () => {
      const at = performance.now();
      const sent = Array.from({ length: due }, () => body());
      [due, planned] = [0, false];
      underWay += sent.length;
      peer.callMany(sent).forEach((answer, n) => answer.then((answer) => answered(sent[n], at, answer), reject));
    };
    const again = () => {
      if (!peer.callMany) return one();
      due += 1;
      if (planned) return;
      planned = true;
      setImmediate(bulk);
    };

    for (let n = 0; n < in_flight; n++) again();
    setTimeout(() => {
      state = "measured";
      begun = performance.now();
      say({ event: "begin" });
      setTimeout(() => {
        state = "over";
        took.sort((a, b) => a - b);
        const quantile = (share) => Math.round(1000 * (took[Math.min(Math.floor(took.length * share), took.length - 1)] ?? NaN));
        const seconds = (performance.now() - begun) / 1000;
        say({ event: "end", calls: took.length, seconds, p50_us: quantile(0.5), p99_us: quantile(0.99) });
      }, window_ms);
    }, warm_up_ms);
  });
}

// Makes so many calls at once, each of which takes `ms`; tells when `tell_after` of them were answered, and at the end what
// became of each. Whoever hears the former kills who works on the rest.
async function burst({ calls, ms, tell_after, limit_ms }) {
  const [answers, failures] = [[], []];
  let limit;
  const over = new Promise((resolve) => {
    limit = setTimeout(resolve, limit_ms);
  });
  const all = Array.from({ length: calls }, async () => {
    try {
      const { attempts } = await peer.call(body({ ms }));
      answers.push([Date.now(), attempts]);
      if (answers.length === tell_after) say({ event: "under way" });
    } catch (error) {
      failures.push(error.code ?? error.message);
    }
  });
  await Promise.race([Promise.all(all), over]);
  clearTimeout(limit);
  say({ event: "burst", answers, failures: failures.length, failure: failures[0] ?? null });
}

say({ event: "ready" });
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.order === "window") await window(order);
  else if (order.order === "burst") await burst(order);
  else throw new Error(`no such order: ${line}`);
  say({ event: "done" });
}
// Some clients go on trying for ever.
process.exit(0);
