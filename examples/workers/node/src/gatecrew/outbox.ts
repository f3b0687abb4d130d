import { status } from "@grpc/grpc-js";
import { Action, type DeepPartial, type Heartbeat, type Reply, WorkerMessage } from "../pb/gatecrew/v1/worker.js";
import { MAX_BODY, StatusError, tooLarge } from "./status.js";

const MESSAGE_BYTES = 1 << 20; // a message is full here; the item that fills it makes it some 2 MiB, and 4 is the limit
const ITEM_BYTES = 256; // what a reply or an action counts beside its content: at most 4096 in a message
const FULL_BYTES = 8 << 20; // more is not read from a gateway that does not read
const HARD_BYTES = 64 << 20; // and so much is not pushed to it
const MAX_ACTION = MAX_BODY + 4096; // bytes

type Write = (message: WorkerMessage, written: () => void) => void;

/**
 * What waits to be written to one gateway. Replies and actions gather in one message, in order, while an earlier one is
 * being written.
 */
export class Outbox {
  readonly #write: Write;
  readonly #onWritten: () => void;
  readonly #waiting: { message: WorkerMessage; bytes: number }[] = [];
  #bytes = 0; // of those, and of the one being written
  #heartbeat: Heartbeat | undefined;
  #writing = false;
  #flushing = false;
  #closed = false;

  constructor(write: Write, onWritten: () => void) {
    this.#write = write;
    this.#onWritten = onWritten;
  }

  get isEmpty(): boolean {
    return this.#bytes === 0;
  }

  get isFull(): boolean {
    return this.#bytes > FULL_BYTES;
  }

  /** Adds a reply, which leaves with the next flush: when the batch has been handled. */
  reply(reply: Reply): void {
    this.#grow(reply.body.length + reply.message.length).replies.push(reply);
  }

  /** @throws StatusError if the action is too large, or the link has ended, or the gateway does not read. */
  act(action: DeepPartial<Action>["action"]): void {
    const placed = Action.create({ action });
    if (placed.action?.$case === "push" && placed.action.value.body.length > MAX_BODY) {
      throw tooLarge(placed.action.value.body.length);
    }
    const size = Action.encode(placed).finish().length;
    if (size > MAX_ACTION) {
      throw new StatusError(status.INVALID_ARGUMENT, `an action of ${size} bytes; ${MAX_ACTION} at most`);
    }
    if (this.#closed || this.#bytes > HARD_BYTES) {
      throw new StatusError(status.UNAVAILABLE, "the session's gateway is gone, or does not read");
    }
    const message = this.#grow(size);
    placed.afterReplies = message.replies.length;
    message.actions.push(placed);
    this.flushSoon();
  }

  /** Answers a heartbeat, ahead of what waits. */
  beat(heartbeat: Heartbeat): void {
    this.#heartbeat = heartbeat;
    this.#grow(0);
  }

  sendHello(hello: WorkerMessage["hello"]): void {
    this.#grow(0).hello = hello;
    this.flush();
  }

  sendDraining(): void {
    this.#grow(0).draining = true;
    this.flush();
  }

  /** Flushes when what is about to end has ended too. */
  flushSoon(): void {
    if (!this.#flushing) {
      this.#flushing = true;
      setImmediate(() => {
        this.#flushing = false;
        this.flush();
      });
    }
  }

  /** Writes what has gathered, unless something is being written: then it follows that. */
  flush(): void {
    const next = this.#writing || this.#closed ? undefined : this.#waiting.shift();
    if (next === undefined) {
      return;
    }
    next.message.heartbeat = this.#heartbeat;
    this.#heartbeat = undefined;
    this.#writing = true;
    this.#write(next.message, () => {
      this.#writing = false;
      this.#bytes -= next.bytes;
      this.flush();
      this.#onWritten();
    });
  }

  /** Forgets what waits: the link has ended. */
  close(): void {
    this.#closed = true;
    this.#waiting.length = 0;
  }

  /** Makes room for an item and returns the message that it belongs in. */
  #grow(size: number): WorkerMessage {
    let last = this.#waiting.at(-1);
    if (last === undefined || last.bytes >= MESSAGE_BYTES || this.#closed) {
      last = { message: WorkerMessage.create(), bytes: 0 };
      if (!this.#closed) {
        this.#waiting.push(last);
      }
    }
    last.bytes += ITEM_BYTES + size;
    this.#bytes += ITEM_BYTES + size;
    return last.message;
  }
}
