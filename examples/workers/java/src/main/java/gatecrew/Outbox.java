package gatecrew;

import gatecrew.v1.Worker.Action;
import gatecrew.v1.Worker.Heartbeat;
import gatecrew.v1.Worker.Reply;
import gatecrew.v1.Worker.WorkerHello;
import gatecrew.v1.Worker.WorkerMessage;
import io.grpc.Status;
import io.grpc.stub.ServerCallStreamObserver;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * What waits to be written to one gateway. Replies and actions gather in one message, in order,
 * while gRPC has enough to send. Whoever calls it holds the link's lock.
 */
final class Outbox {
  private static final int MESSAGE_BYTES =
      1 << 20; // a message is full here; what fills it makes it 2 MiB, and 4 is the limit
  private static final int ITEM_BYTES =
      256; // what a reply or an action counts beside its content: at most 4096 in a message
  private static final int FULL_BYTES =
      8 << 20; // more is not read from a gateway that does not read
  private static final int HARD_BYTES = 64 << 20; // and so much is not pushed to it
  private static final int MAX_ACTION = Handler.MAX_BODY + 4096;

  private record Parcel(WorkerMessage message, int bytes) {}

  private final ServerCallStreamObserver<WorkerMessage> gateway;
  private final Queue<Parcel> full = new ArrayDeque<>();
  private WorkerMessage.Builder message = WorkerMessage.newBuilder();
  private int messageBytes;
  private int fullBytes;
  private Heartbeat heartbeat;
  private boolean finishing;
  private boolean closed;

  Outbox(ServerCallStreamObserver<WorkerMessage> gateway) {
    this.gateway = gateway;
  }

  void hello(WorkerHello hello) {
    message.setHello(hello);
    grow(0);
  }

  void reply(Reply.Builder reply) {
    message.addReplies(reply);
    grow(reply.getBody().size() + reply.getMessage().length());
  }

  /**
   * @throws io.grpc.StatusRuntimeException where the action is too large, where the link has ended,
   *     and where that gateway does not read
   */
  void act(Action.Builder action) {
    action.setAfterReplies(message.getRepliesCount());
    var built = action.build();
    int size = built.getSerializedSize();
    if (size > MAX_ACTION) {
      var text = "an action of %d bytes; %d at most".formatted(size, MAX_ACTION);
      throw Status.INVALID_ARGUMENT.withDescription(text).asRuntimeException();
    }
    if (closed || fullBytes > HARD_BYTES) {
      var text = "the session's gateway is gone, or does not read";
      throw Status.UNAVAILABLE.withDescription(text).asRuntimeException();
    }
    message.addActions(built);
    grow(size);
  }

  /** Answers a heartbeat, ahead of what waits. */
  void beat(Heartbeat answer) {
    heartbeat = answer;
    grow(0);
  }

  void draining() {
    message.setDraining(true);
    grow(0);
  }

  private void grow(int size) {
    messageBytes += ITEM_BYTES + size;
    if (messageBytes >= MESSAGE_BYTES) {
      seal();
    }
  }

  private void seal() {
    full.add(new Parcel(message.build(), messageBytes));
    fullBytes += messageBytes;
    message = WorkerMessage.newBuilder();
    messageBytes = 0;
  }

  boolean hasRoom() {
    return fullBytes < FULL_BYTES;
  }

  /** Hands gRPC as much as it can send. */
  void flush() {
    while (!closed && gateway.isReady() && (messageBytes > 0 || !full.isEmpty())) {
      if (full.isEmpty()) {
        seal();
      }
      var parcel = full.remove();
      fullBytes -= parcel.bytes;
      var next = parcel.message;
      if (heartbeat != null) {
        next = next.toBuilder().setHeartbeat(heartbeat).build();
        heartbeat = null;
      }
      gateway.onNext(next);
    }
    if (finishing && !closed && messageBytes == 0 && full.isEmpty()) {
      closed = true;
      gateway.onCompleted();
    }
  }

  /** Ends the stream when everything is written. */
  void finish() {
    finishing = true;
  }

  /** The link has ended: what waits is for nobody. */
  void close() {
    closed = true;
    full.clear();
    message = WorkerMessage.newBuilder();
    messageBytes = 0;
    fullBytes = 0;
  }
}
