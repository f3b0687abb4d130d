// The reference worker in TypeScript. What each command does is said in examples/workers/README.md of Gatecrew.
import { setTimeout } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import { serve } from "./gatecrew/serve.js";
import type { Session } from "./gatecrew/session.js";
import { MAX_BODY, StatusError, tooLarge } from "./gatecrew/status.js";
import { Worker, type Handler } from "./gatecrew/worker.js";
import type { Request } from "./pb/gatecrew/v1/worker.js";

const PUSH = 109;
const SAY = 112;
const OK = Buffer.from("ok");
const LONGEST_MS = 2 ** 31 - 1; // a timer takes no more

const worker = new Worker(process.env.SERVICE || "tour");
let begun = 0; // handlers that this process has begun
const counts = new WeakMap<Session, number>(); // a session goes when its gateway says so

/** `worker.on` for handlers that are counted. */
function on(command: number, handler: Handler): void {
  worker.on(command, (session, request, task) => {
    begun++;
    return handler(session, request, task);
  });
}

on(101, (_, request) => request.body);

on(102, (_, request) => {
  throw new StatusError(status.FAILED_PRECONDITION, text(request));
});

on(103, () => {
  throw new Error("as asked");
});

on(104, async (_, request, { signal }) => {
  await setTimeout(Math.min(number(request), LONGEST_MS), undefined, { signal });
  return request.body;
});

on(105, (session) => {
  const count = (counts.get(session) ?? 0) + 1;
  counts.set(session, count);
  return Buffer.from(String(count));
});

on(106, () => Buffer.from(`node ${worker.incarnation} ${begun}`));

on(107, (_, request) => {
  const size = number(request);
  if (size > MAX_BODY) {
    throw tooLarge(size); // before so much memory is asked for
  }
  return Buffer.alloc(size, "x");
});

on(108, ({ context: { session, user, peer, listener, attributes } }) => {
  const lines = [`session=${session}`, `user=${user}`, `peer=${peer}`, `listener=${listener}`];
  const sorted = [...attributes.keys()].sort();
  return Buffer.from([...lines, ...sorted.map((name) => `${name}=${attributes.get(name)}`)].join("\n"));
});

on(PUSH, (session, request) => {
  session.push(PUSH, request.body);
  return OK;
});

on(110, (session, request) => {
  session.join(text(request));
  return OK;
});

on(111, (session, request) => {
  session.leave(text(request));
  return OK;
});

on(SAY, (session, { body }) => {
  const space = body.indexOf(0x20);
  const end = space < 0 ? body.length : space;
  worker.pushGroup(Buffer.from(body.subarray(0, end)).toString(), SAY, body.subarray(end + 1), session.id);
  return OK;
});

on(113, (session, request) => {
  session.bind(text(request));
  return OK;
});

on(114, (session, request) => {
  const [name = "", ...value] = text(request).split("=");
  session.set(name, value.join("="));
  return OK;
});

on(115, (session, request) => {
  session.kick(text(request));
  return Buffer.alloc(0);
});

function text(request: Request): string {
  return Buffer.from(request.body).toString();
}

function number(request: Request): number {
  const digits = text(request);
  if (!/^[0-9]+$/.test(digits)) {
    throw new StatusError(status.INVALID_ARGUMENT, "give a decimal number");
  }
  return Number(digits);
}

await serve(worker.implementation, () => worker.drain());
