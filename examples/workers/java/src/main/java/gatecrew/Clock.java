package gatecrew;

import java.util.concurrent.TimeUnit;

/** What is known of a gateway's clock: it shows how long a message lay before it was read. */
final class Clock {
  private static final long DRIFT = 1000; // its clock may run slower than ours by a thousandth

  private boolean known;
  private long offset; // between our clock and the gateway's, with the fastest message's way
  private long at; // when we last looked

  /**
   * What a message took longer than the fastest one, in nanoseconds; 0 from a gateway that does not
   * say when it sent it.
   */
  long unread(long sentMs, long now) {
    if (sentMs == 0) {
      return 0;
    }
    long difference = now - TimeUnit.MILLISECONDS.toNanos(sentMs);
    offset += (now - at) / DRIFT;
    if (!known || difference < offset) {
      known = true;
      offset = difference;
    }
    at = now;
    return difference - offset;
  }
}
