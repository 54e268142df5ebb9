// Node's HTTP clients: `node node_client.mjs LIBRARY URL KEY` prints what became of each case as JSON.
import http from "node:http";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [library, url, key] = process.argv.slice(2);
const require = createRequire(`${process.env.POSTROOM_NODE_MODULES ?? process.cwd()}/`);
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const address = `${url}/send-email`;
const TEXT = 5_000_000;
const TOO_LARGE = 60_000_000;

async function* pieces(body) {
  for (let at = 0; at < body.length; at += 10_000) yield body.subarray(at, at + 10_000);
}

const made = {
  // One connection that is kept.
  http: async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    return (body, headers, chunked) =>
      new Promise((resolve, reject) => {
        const length = chunked ? {} : { "Content-Length": body.length };
        const options = { method: "POST", agent, headers: { ...headers, ...length } };
        const request = http.request(address, options, (answer) => {
          const parts = [];
          answer.on("data", (part) => parts.push(part));
          answer.on("end", () => resolve([answer.statusCode, JSON.parse(Buffer.concat(parts))]));
          answer.on("error", reject);
        });
        request.on("error", reject);
        request.on("socket", (socket) => socket.on("error", () => {})); // one that breaks after its answer
        if (chunked) {
          for (let at = 0; at < body.length; at += 10_000) request.write(body.subarray(at, at + 10_000));
          request.end();
        } else request.end(body);
      });
  },
  fetch: async () => async (body, headers, chunked) => {
    const sent = chunked ? { body: ReadableStream.from(pieces(body)), duplex: "half" } : { body };
    const answer = await fetch(address, { method: "POST", headers, ...sent });
    return [answer.status, await answer.json()];
  },
  undici: async () => {
    const { Agent, request } = await load("undici");
    const dispatcher = new Agent({ connections: 1 });
    return async (body, headers, chunked) => {
      const sent = chunked ? pieces(body) : body;
      const answer = await request(address, { method: "POST", headers, body: sent, dispatcher });
      return [answer.statusCode, await answer.body.json()];
    };
  },
  got: async () => {
    const { default: got } = await load("got");
    const { Readable } = await import("node:stream");
    const agent = { http: new http.Agent({ keepAlive: true, maxSockets: 1 }) };
    return async (body, headers, chunked) => {
      const sent = chunked ? Readable.from(pieces(body)) : body;
      const options = { headers, body: sent, agent, throwHttpErrors: false, retry: { limit: 0 } };
      const answer = await got.post(address, options);
      return [answer.statusCode, JSON.parse(answer.body)];
    };
  },
  axios: async () => {
    const { default: axios } = await load("axios");
    const { Readable } = await import("node:stream");
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    return async (body, headers, chunked) => {
      const sent = chunked ? Readable.from(pieces(body)) : body;
      const options = { headers, httpAgent: agent, validateStatus: () => true, maxBodyLength: Infinity, maxRedirects: 0 };
      const answer = await axios.post(address, sent, options);
      return [answer.status, answer.data];
    };
  },
};

const headers = { "Content-Type": "application/json" };
const mail = (fields) =>
  Buffer.from(JSON.stringify({ subject: "s", recipient: "you@postroom.example", body: "b", key, ...fields }));
const attempt = async (post, body, chunked) => {
  try {
    return (await post(body, headers, chunked))[0];
  } catch (error) {
    return `${error}: ${error.cause}`;
  }
};
const inTurn = async (...bodies) => {
  const post = await made[library]();
  const found = [];
  for (const body of bodies) found.push(await attempt(post, body));
  return found;
};
const parallel = await Promise.all([...Array(8)].map(() => inTurn(...Array(10).fill(mail()))));
const replayed = async () => {
  const post = await made[library]();
  const again = { ...headers, "Idempotency-Key": randomUUID() };
  const first = await post(mail(), again);
  const second = await post(mail(), again);
  return [first[0], second[0], JSON.stringify(first[1]) === JSON.stringify(second[1])];
};
console.log(
  JSON.stringify({
    post: await inTurn(mail()),
    large: await inTurn(mail({ body: "x".repeat(TEXT) })),
    chunked: [await attempt(await made[library](), mail({ body: "x".repeat(100_000) }), true)],
    parallel: [...new Set(parallel.flat())],
    replay: await replayed(),
    401: await inTurn(mail({ key: "wrong" }), mail()),
    422: await inTurn(mail({ recipient: "nobody" }), mail()),
    413: await inTurn(Buffer.alloc(TOO_LARGE, " "), mail()),
  }),
);
process.exit(0);
