package gatecrew;

import com.google.protobuf.ByteString;
import io.grpc.Status;
import java.util.concurrent.CompletableFuture;

/**
 * Answers a request. It must not block: the thread that calls it serves everybody; what takes its
 * time returns a future that is not complete yet, and only the session waits for it.
 *
 * <p>An exception of gRPC's ({@code Status.NOT_FOUND.withDescription("no such
 * room").asRuntimeException()}) reaches the client; any other is logged, and the client is told
 * "internal error" and no more.
 *
 * <p>The future is cancelled when nobody waits for the answer any more: the deadline has passed, or
 * the client has gone. Whoever completes it may stop then ({@code whenComplete}); the session's
 * next request does not wait for that.
 */
@FunctionalInterface
public interface Handler {
  /** What fits in a packet: bytes of a reply or a push. */
  int MAX_BODY = (1 << 20) - 8;

  CompletableFuture<ByteString> handle(Request request) throws Exception;

  /** What the client hears of a reply that fits in no packet. */
  static Status tooLarge(long bytes) {
    return Status.INTERNAL.withDescription(
        "a reply of %d bytes; %d at most".formatted(bytes, MAX_BODY));
  }
}
