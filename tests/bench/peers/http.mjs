// A caller over HTTP/1.1: one connection for each call under way, kept open. It is for the calls that meet a kill; what
// HTTP can carry is measured with wrk.

import { Agent, request } from "node:http";

const CONNECTIONS = 100;

export async function connect(url) {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const call = (body) =>
    new Promise((resolve, reject) => {
      const path = body.ms ? `/sleep/${body.ms}` : "/";
      const asked = request(new URL(path, url), { agent, method: "POST" }, async (answer) => {
        try {
          let text = "";
          for await (const piece of answer) text += piece;
          if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
          resolve({ attempts: 1, ...JSON.parse(text) });
        } catch (error) {
          reject(error);
        }
      });
      asked.on("error", reject);
      asked.end(JSON.stringify(body));
    });
  return { call };
}
