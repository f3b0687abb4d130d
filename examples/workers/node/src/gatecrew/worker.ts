import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import { type LogicWorkerServer, type Request, WorkerHello } from "../pb/gatecrew/v1/worker.js";
import { Link } from "./link.js";
import type { Session } from "./session.js";
import { StatusError } from "./status.js";
import type { Task } from "./task.js";

export const MAX_IN_FLIGHT = 1024; // requests of one link

/**
 * Answers a request: at once, which is the fastest way, or with a promise; then only its own session waits for it, and
 * not longer than until `task.signal` is aborted.
 */
export type Handler = (session: Session, request: Request, task: Task) => Uint8Array | Promise<Uint8Array>;

/** A service, named as it is registered. Pass its `implementation` to `serve` once its handlers are set. */
export class Worker {
  readonly incarnation = randomUUID(); // one process life
  readonly handlers = new Map<number, Handler>();
  readonly links = new Set<Link>();
  draining = false;
  #loggedAt = -Infinity;

  readonly implementation: Pick<LogicWorkerServer, "link"> = {
    link: (call) => {
      const link = new Link(this, call);
      this.links.add(link);
      if (this.draining) {
        link.outbox.sendDraining(); // a gateway that comes late
      }
    },
  };

  constructor(readonly service: string) {}

  on(command: number, handler: Handler): void {
    this.handlers.set(command, handler);
  }

  /** Sends a packet to the members of a group, whichever gateway they are at, but not to the session `except`. */
  pushGroup(group: string, command: number, body: Uint8Array, except = 0n): void {
    const target = { $case: "group", value: group } as const;
    for (const link of this.links) {
      try {
        link.outbox.act({ $case: "push", value: { target, command, body, exceptSession: except } });
      } catch (error) {
        if (!(error instanceof StatusError) || error.code !== status.UNAVAILABLE) {
          throw error; // else one gateway is gone, which is no failure
        }
      }
    }
  }

  /** Gives back what still comes. A gateway closes its link when nothing is open any more; returns when all have. */
  async drain(): Promise<void> {
    this.draining = true;
    for (const link of this.links) {
      link.outbox.sendDraining();
    }
    while (this.links.size > 0) {
      await setTimeout(10);
    }
  }

  hello(): WorkerHello {
    const commands = [...this.handlers.keys()];
    const { service, incarnation } = this;
    const noCommands = commands.length === 0; // else an empty list means all
    // And no concurrency: promises wait without a thread.
    return WorkerHello.create({ service, incarnation, commands, noCommands, maxInFlight: MAX_IN_FLIGHT });
  }

  /** Logs one failure a second: a client must not be able to fill the log. */
  logFailure(where: string, error: unknown): void {
    const now = performance.now();
    if (now - this.#loggedAt > 1000) {
      this.#loggedAt = now;
      console.error(where, error);
    }
  }
}
