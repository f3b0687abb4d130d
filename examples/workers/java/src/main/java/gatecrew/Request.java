package gatecrew;

import com.google.protobuf.ByteString;
import gatecrew.v1.Worker.SessionContext;

/**
 * A packet for a handler to answer.
 *
 * @param session its client
 * @param context who that is
 * @param attempt 0 the first time; above that an earlier one may have run
 * @param id with the session's id the idempotency key: the same over all attempts
 */
public record Request(
    Session session, SessionContext context, int command, ByteString body, int attempt, long id) {}
