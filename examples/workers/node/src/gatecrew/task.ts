import type { Request } from "../pb/gatecrew/v1/worker.js";
import type { Session } from "./session.js";
import type { Handler } from "./worker.js";

/** A request on its way to its handler. */
export class Task {
  cancelled = false;
  #controller: AbortController | undefined; // only if the handler asks for the signal: most have answered by then

  /** @param arrived performance.now() when it could have been read */
  constructor(
    readonly session: Session,
    readonly request: Request,
    readonly handler: Handler,
    readonly arrived: number,
  ) {}

  /** Aborted when nobody waits for the answer any more: the deadline has passed, or the client or the link has gone. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.cancelled) {
      this.#controller.abort();
    }
    return this.#controller.signal;
  }

  cancel(): void {
    this.cancelled = true;
    this.#controller?.abort();
  }
}
