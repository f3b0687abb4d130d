const DRIFT = 1000; // a gateway's clock may run slower than ours by a thousandth

/** What is known of a gateway's clock: it shows how long a message lay before it was read. */
export class Clock {
  #offset: number | undefined; // ms between our clock and the gateway's, with the fastest message's way
  #at = 0; // when we last looked

  /** What a message took longer than the fastest one; 0 from a gateway that does not say when it sent it. */
  unreadMs(sentMs: bigint, now: number): number {
    if (sentMs === 0n) {
      return 0;
    }
    const difference = now - Number(sentMs);
    this.#offset = Math.min(difference, (this.#offset ?? difference) + (now - this.#at) / DRIFT);
    this.#at = now;
    return difference - this.#offset;
  }
}
