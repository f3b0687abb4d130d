import type { SessionContext } from "../pb/gatecrew/v1/worker.js";
import type { Outbox } from "./outbox.js";

/** A client, as one link knows it. Its requests run one after the other; it goes when the gateway forgets it. */
export class Session {
  readonly #outbox: Outbox;

  /** @param context who it is */
  constructor(
    readonly id: bigint,
    public context: SessionContext,
    outbox: Outbox,
  ) {
    this.#outbox = outbox;
  }

  /** Sends a packet to the client. */
  push(command: number, body: Uint8Array): void {
    const target = { $case: "session", value: this.id } as const;
    this.#outbox.act({ $case: "push", value: { target, command, body } });
  }

  join(group: string): void {
    this.#outbox.act({ $case: "join", value: { session: this.id, group } });
  }

  leave(group: string): void {
    this.#outbox.act({ $case: "leave", value: { session: this.id, group } });
  }

  /** Says which user it is. */
  bind(user: string): void {
    this.#outbox.act({ $case: "bind", value: { session: this.id, user } });
  }

  /** Sets an attribute; an empty value removes it. */
  set(name: string, value: string): void {
    this.#outbox.act({ $case: "setAttributes", value: { session: this.id, attributes: new Map([[name, value]]) } });
  }

  /** Closes it, once its client has been told the reason. */
  kick(reason: string): void {
    this.#outbox.act({ $case: "kick", value: { target: { $case: "session", value: this.id }, reason } });
  }
}
