import { status, type ServerDuplexStream } from "@grpc/grpc-js";
import {
  type GatewayMessage,
  Heartbeat,
  Kind,
  Reply,
  type Request,
  SessionContext,
  type WorkerMessage,
} from "../pb/gatecrew/v1/worker.js";
import { Clock } from "./clock.js";
import { Outbox } from "./outbox.js";
import { Session } from "./session.js";
import { MAX_BODY, StatusError, tooLarge } from "./status.js";
import { Task } from "./task.js";
import { MAX_IN_FLIGHT, type Worker } from "./worker.js";

const LEASE_MS = 2000; // a gateway speaks every second; after such a silence we stood still
const DOUBT_MS = 200; // for a cancellation to overtake what came before it
const MAX_MESSAGE = 1024; // characters of an error that the client is shown
const NOTHING = new Uint8Array();
const NOBODY_WAITS = new StatusError(status.CANCELLED, "nobody waits for the answer any more");
const EMPTY = Reply.create(); // spread into each reply, which is cheaper than another create

/** A session with a handler that has not ended, and what waits for that. */
type Lane = { running: Task; waiting: Task[] };

/** The stream of one gateway. */
export class Link {
  readonly outbox: Outbox;
  readonly #worker: Worker;
  readonly #call: ServerDuplexStream<GatewayMessage, WorkerMessage>;
  readonly #sessions = new Map<bigint, Session>();
  readonly #open = new Map<bigint, Task>(); // those that wait, for a promise or in a lane, oldest first
  readonly #lanes = new Map<Session, Lane>();
  readonly #clock = new Clock();
  #heardAt = Infinity; // when the gateway last spoke
  #greeted = false;
  #halfClosed = false;
  #over = false;

  constructor(worker: Worker, call: ServerDuplexStream<GatewayMessage, WorkerMessage>) {
    this.#worker = worker;
    this.#call = call;
    this.outbox = new Outbox(
      (message, written) => call.write(message, written),
      () => this.#onWritten(),
    );
    call.on("data", (message: GatewayMessage) => this.#receive(message));
    call.on("end", () => {
      this.#halfClosed = true; // it asks nothing more, and still wants its answers
      this.#leaveIfDone();
    });
    call.on("cancelled", () => this.#close());
    this.outbox.sendHello(worker.hello());
  }

  #receive(message: GatewayMessage): void {
    if (!this.#greeted && message.hello === undefined) {
      this.#close();
      this.#call.emit("error", { code: status.INVALID_ARGUMENT, details: "the first message has no hello" });
      return;
    }
    this.#greeted = true;
    if (!this.#stoodStill(performance.now())) {
      this.#take(message);
      return;
    }
    this.#call.pause();
    setTimeout(() => {
      this.#call.resume();
      this.#take(message);
    }, DOUBT_MS);
  }

  #stoodStill(at: number): boolean {
    return at - this.#heardAt > LEASE_MS;
  }

  #take(message: GatewayMessage): void {
    const now = (this.#heardAt = performance.now());
    const arrived = now - this.#clock.unreadMs(message.sentMs, now);
    if (message.heartbeat !== undefined) {
      const [oldest] = this.#open.values();
      const oldestMs = oldest === undefined ? 0 : Math.round(now - oldest.arrived);
      const inFlight = this.#open.size;
      this.outbox.beat(Heartbeat.create({ number: message.heartbeat.number, inFlight, oldestMs }));
    }
    for (const context of message.sessions) {
      this.#session(context.session).context = context;
    }
    for (const request of message.requests) {
      this.#admit(request, arrived);
    }
    for (const id of message.forgottenSessions) {
      this.#sessions.delete(id);
    }
    for (const id of message.cancelledRequests) {
      this.#cancel(id);
    }
    this.outbox.flush();
    if (this.outbox.isFull) {
      this.#call.pause();
    }
  }

  #session(id: bigint): Session {
    let session = this.#sessions.get(id);
    if (session === undefined) {
      session = new Session(id, SessionContext.create({ session: id }), this.outbox);
      this.#sessions.set(id, session);
    }
    return session;
  }

  /** Runs a request's handler at once, or puts it in its session's lane, or refuses it. */
  #admit(request: Request, arrived: number): void {
    if (request.kind !== Kind.KIND_REQUEST && request.kind !== Kind.KIND_NOTIFY) {
      this.#reply(request, NOTHING); // an event that we did not ask for, or a kind of a later version
      return;
    }
    const handler = this.#worker.handlers.get(request.command);
    if (handler === undefined) {
      this.#refuse(request, status.UNIMPLEMENTED, `no handler for command ${request.command}`);
    } else if (this.#worker.draining) {
      this.#giveBack(request, "the worker is draining");
    } else if (this.#open.size >= MAX_IN_FLIGHT) {
      this.#giveBack(request, "the worker has too much in flight");
    } else {
      const session = this.#session(request.session);
      const task = new Task(session, request, handler, arrived);
      const lane = this.#lanes.get(session);
      if (lane !== undefined) {
        this.#open.set(request.id, task);
        lane.waiting.push(task);
      } else if (!this.#run(task)) {
        this.#open.set(request.id, task);
        this.#lanes.set(session, { running: task, waiting: [] });
      }
    }
  }

  /** Begins a request if it is still worth it; returns whether it has ended. */
  #run(task: Task): boolean {
    const { session, request, handler, arrived } = task;
    const at = performance.now();
    if (this.#over) {
      return true; // its requests are other workers' by now
    }
    if (this.#stoodStill(at)) {
      this.#giveBack(request, "the worker stood still");
      return true;
    }
    if (request.remainingMs > 0 && at - arrived > request.remainingMs) {
      this.#refuse(request, status.DEADLINE_EXCEEDED, "the deadline passed before the handler started");
      return true;
    }
    try {
      const result = handler(session, request, task);
      if (result instanceof Promise) {
        void this.#settle(task, result);
        return false;
      }
      this.#answer(request, result);
    } catch (error) {
      this.#fail(task, error);
    }
    return true;
  }

  async #settle(task: Task, result: Promise<Uint8Array>): Promise<void> {
    try {
      this.#answer(task.request, await result);
    } catch (error) {
      this.#fail(task, error);
    }
    this.#open.delete(task.request.id);
    if (this.#lanes.get(task.session)?.running === task) {
      this.#goOn(task.session);
    }
    this.outbox.flushSoon();
    this.#leaveIfDone();
  }

  /** Runs what waits in a session's lane, up to the next handler that does not end at once. */
  #goOn(session: Session): void {
    const lane = this.#lanes.get(session)!;
    for (let next = lane.waiting.shift(); next !== undefined; next = lane.waiting.shift()) {
      lane.running = next;
      if (!this.#run(next)) {
        return;
      }
      this.#open.delete(next.request.id);
    }
    this.#lanes.delete(session);
  }

  /**
   * Ends what nobody waits for any more. One that waits is answered now; one that runs has its signal aborted, is
   * answered when its handler ends, which holds its place until then, and keeps its session waiting no longer.
   */
  #cancel(id: bigint): void {
    const task = this.#open.get(id);
    if (task === undefined) {
      return; // answered before it came to that
    }
    const lane = this.#lanes.get(task.session);
    const at = lane?.waiting.indexOf(task) ?? -1;
    task.cancel();
    if (at >= 0) {
      lane!.waiting.splice(at, 1);
      this.#open.delete(id);
      this.#fail(task, undefined);
    } else if (lane?.running === task) {
      this.#goOn(task.session);
    }
  }

  #answer(request: Request, body: Uint8Array): void {
    if (request.kind === Kind.KIND_NOTIFY) {
      this.#reply(request, NOTHING);
    } else if (!(body instanceof Uint8Array)) {
      throw new TypeError(`the handler returned ${typeof body}, not bytes`);
    } else if (body.length > MAX_BODY) {
      throw tooLarge(body.length);
    } else {
      this.#reply(request, body);
    }
  }

  #fail(task: Task, error: unknown): void {
    const { request, cancelled } = task;
    const shown = cancelled ? NOBODY_WAITS : error instanceof StatusError ? error : undefined;
    if (shown === undefined && !this.#over) {
      this.#worker.logFailure(`command ${request.command}`, error);
    }
    if (request.kind === Kind.KIND_NOTIFY) {
      this.#reply(request, NOTHING);
    } else {
      this.#refuse(request, shown?.code ?? status.INTERNAL, shown?.message ?? "internal error");
    }
  }

  #reply({ id }: Request, body: Uint8Array): void {
    this.outbox.reply({ ...EMPTY, id, body });
  }

  #refuse({ id }: Request, code: status, message: string): void {
    this.outbox.reply({ ...EMPTY, id, status: code, message: message.slice(0, MAX_MESSAGE) });
  }

  /** Lets the gateway take the request to another worker. */
  #giveBack({ id }: Request, message: string): void {
    this.outbox.reply({ ...EMPTY, id, status: status.UNAVAILABLE, message, notStarted: true });
  }

  #onWritten(): void {
    if (this.#call.isPaused() && !this.outbox.isFull) {
      this.#call.resume();
    }
    this.#leaveIfDone();
  }

  #leaveIfDone(): void {
    if (this.#halfClosed && !this.#over && this.#open.size === 0 && this.outbox.isEmpty) {
      this.#call.end();
      this.#close();
    }
  }

  #close(): void {
    this.#over = true;
    this.#worker.links.delete(this);
    this.outbox.close();
    for (const task of this.#open.values()) {
      task.cancel();
    }
  }
}
