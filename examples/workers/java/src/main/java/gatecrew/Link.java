package gatecrew;

import com.google.protobuf.ByteString;
import gatecrew.v1.Worker.Action;
import gatecrew.v1.Worker.GatewayMessage;
import gatecrew.v1.Worker.Heartbeat;
import gatecrew.v1.Worker.Kind;
import gatecrew.v1.Worker.Reply;
import gatecrew.v1.Worker.SessionContext;
import gatecrew.v1.Worker.WorkerMessage;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;

/**
 * The stream of one gateway. Its own lock guards it: nearly always the connection's thread has it,
 * which reads, runs the handlers and writes; sometimes a thread in which a handler's future became
 * complete.
 */
final class Link implements StreamObserver<GatewayMessage> {
  private static final long LEASE_NS =
      TimeUnit.SECONDS.toNanos(2); // a gateway speaks every second; then we stood still
  private static final long DOUBT_MS = 200; // for a cancellation to overtake what came before it
  private static final int MAX_MESSAGE = 1024; // characters of an error that the client is shown
  private static final Status CANCELLED =
      Status.CANCELLED.withDescription("nobody waits for the answer any more");

  /** A request on its way to its handler. */
  static final class Task {
    final Request request;
    final Handler handler;
    private CompletableFuture<ByteString> answer; // once it is begun
    private final boolean isNotify;
    private final long arrived; // when it could have been read
    private final long remaining; // nanoseconds; 0: no deadline

    Task(Request request, Handler handler, boolean isNotify, long arrived, int remainingMs) {
      this.request = request;
      this.handler = handler;
      this.isNotify = isNotify;
      this.arrived = arrived;
      this.remaining = TimeUnit.MILLISECONDS.toNanos(Integer.toUnsignedLong(remainingMs));
    }

    boolean isLate(long now) {
      return remaining != 0 && now - arrived > remaining;
    }
  }

  private final Worker worker;
  private final ServerCallStreamObserver<WorkerMessage> gateway;
  private final Outbox outbox;
  private final Map<Long, Session> sessions = new HashMap<>();
  private final Map<Long, Task> open = new LinkedHashMap<>(); // those in a lane, oldest first
  private final Clock clock = new Clock();
  private long heard = System.nanoTime();
  private boolean wantsMore; // the reader waits for room in the outbox
  private boolean halfClosed;
  private boolean ended;
  private boolean handling; // what is made now is flushed in the end

  Link(Worker worker, ServerCallStreamObserver<WorkerMessage> gateway) {
    this.worker = worker;
    this.gateway = gateway;
    this.outbox = new Outbox(gateway);
    gateway.disableAutoRequest();
    gateway.setOnReadyHandler(this::onReady);
    gateway.setOnCancelHandler(this::onEnd);
    gateway.setOnCloseHandler(this::onEnd);
  }

  synchronized void start() {
    outbox.hello(worker.hello());
    if (worker.isDraining()) {
      outbox.draining(); // to a gateway that comes late
    }
    outbox.flush();
    gateway.request(1);
  }

  synchronized void drain() {
    outbox.draining();
    outbox.flush();
  }

  synchronized void act(Action.Builder action) {
    outbox.act(action);
    if (!handling) {
      outbox.flush();
    }
  }

  void actIfItReads(Action.Builder action) {
    try {
      act(action);
    } catch (StatusRuntimeException gone) {
      // A gateway that is gone, or does not read, is no failure of who pushes to a group.
    }
  }

  // From gRPC.

  @Override
  public synchronized void onNext(GatewayMessage message) {
    if (System.nanoTime() - heard > LEASE_NS) {
      // The thread that would hear of the cancellation is this one.
      Worker.TIMER.schedule(() -> take(message), DOUBT_MS, TimeUnit.MILLISECONDS);
    } else {
      take(message);
    }
  }

  @Override
  public synchronized void onCompleted() { // it asks nothing more, and still wants its answers
    halfClosed = true;
    settle();
  }

  @Override
  public void onError(Throwable error) {
    onEnd();
  }

  private synchronized void onReady() {
    settle();
    if (wantsMore && outbox.hasRoom()) {
      wantsMore = false;
      gateway.request(1);
    }
  }

  private synchronized void onEnd() {
    ended = true;
    outbox.close();
    sessions.clear();
    worker.left(this);
  }

  /** Writes what there is, and ends the stream if that was all. */
  private void settle() {
    if (halfClosed && open.isEmpty()) {
      outbox.finish();
    }
    outbox.flush();
  }

  // Requests.

  private synchronized void take(GatewayMessage message) {
    if (ended || gateway.isCancelled()) {
      return;
    }
    long now = heard = System.nanoTime();
    long arrived = now - clock.unread(message.getSentMs(), now);
    handling = true;
    try {
      if (message.hasHeartbeat()) {
        outbox.beat(heartbeat(message.getHeartbeat().getNumber(), now));
      }
      for (var context : message.getSessionsList()) {
        session(context.getSession()).context = context;
      }
      for (var request : message.getRequestsList()) {
        admit(request, arrived);
      }
      for (var id : message.getForgottenSessionsList()) {
        sessions.remove(id);
      }
      for (var id : message.getCancelledRequestsList()) {
        cancel(id);
      }
    } finally {
      handling = false;
    }
    settle();
    if (outbox.hasRoom()) {
      gateway.request(1);
    } else {
      wantsMore = true;
    }
  }

  private Session session(long id) {
    return sessions.computeIfAbsent(
        id, unknown -> new Session(this, SessionContext.newBuilder().setSession(id).build()));
  }

  /** Runs a request's handler, or puts it in its session's lane, or refuses it. */
  private void admit(gatecrew.v1.Worker.Request wire, long arrived) {
    long id = wire.getId();
    if (wire.getKindValue()
        > Kind.KIND_NOTIFY_VALUE) { // an event that we did not ask for, or a later version's kind
      outbox.reply(Reply.newBuilder().setId(id));
      return;
    }
    var handler = worker.handler(wire.getCommand());
    if (handler == null) {
      fail(id, Status.UNIMPLEMENTED.withDescription("no handler for command " + wire.getCommand()));
    } else if (worker.isDraining()) {
      giveBack(id, "the worker is draining");
    } else if (open.size() >= Worker.MAX_IN_FLIGHT) {
      giveBack(id, "the worker has too much in flight");
    } else {
      var session = session(wire.getSession());
      var request =
          new Request(
              session, session.context, wire.getCommand(), wire.getBody(), wire.getAttempt(), id);
      boolean isNotify = wire.getKindValue() == Kind.KIND_NOTIFY_VALUE;
      var task = new Task(request, handler, isNotify, arrived, wire.getRemainingMs());
      if (session.busy) {
        open.put(id, task);
        session.waiting.add(task);
      } else {
        begin(task);
      }
    }
  }

  /** Runs the handler if anybody still waits for the answer; returns false if that goes on. */
  private boolean begin(Task task) {
    long now = System.nanoTime();
    long id = task.request.id();
    if (now - heard > LEASE_NS) {
      giveBack(id, "the worker stood still");
      return true;
    }
    if (task.isLate(now)) {
      fail(
          id,
          Status.DEADLINE_EXCEEDED.withDescription(
              "the deadline passed before the handler started"));
      return true;
    }
    CompletableFuture<ByteString> answer;
    try {
      answer = task.handler.handle(task.request);
    } catch (
        Throwable
            error) { // an OutOfMemoryError of one handler, too, is no reason to drop everybody
      answer = CompletableFuture.failedFuture(error);
    }
    if (answer.isDone()) {
      answer.whenComplete((body, error) -> answer(task, body, error));
      return true;
    }
    task.answer = answer;
    open.put(id, task);
    task.request.session().busy = true;
    answer.whenComplete((body, error) -> goOn(task, body, error));
    return false;
  }

  /** A handler that took its time has ended: the next of its session has its turn. */
  private synchronized void goOn(Task task, ByteString body, Throwable error) {
    open.remove(task.request.id());
    if (ended) {
      return;
    }
    boolean nested = handling;
    handling = true;
    answer(task, body, error);
    var session = task.request.session();
    session.busy = false;
    for (var next = session.waiting.poll(); next != null; next = session.waiting.poll()) {
      open.remove(next.request.id());
      if (!begin(next)) {
        break;
      }
    }
    handling = nested;
    if (!nested) {
      settle();
    }
  }

  /** Ends what nobody waits for any more, and answers it. */
  private void cancel(long id) {
    var task = open.get(id);
    if (task == null) {
      return; // answered before it came to that
    }
    if (task.answer != null) {
      task.answer.cancel(true); // which answers it, and begins the next of its session
    } else {
      open.remove(id);
      task.request.session().waiting.remove(task);
      fail(id, CANCELLED);
    }
  }

  private void answer(Task task, ByteString body, Throwable error) {
    long id = task.request.id();
    if (task.isNotify) {
      body = ByteString.EMPTY;
    } else if (error != null) {
      fail(id, shown(task, error));
      return;
    } else if (body.size() > Handler.MAX_BODY) {
      fail(id, Handler.tooLarge(body.size()));
      return;
    }
    outbox.reply(Reply.newBuilder().setId(id).setBody(body));
  }

  /** What the client is told of a handler's failure. */
  private Status shown(Task task, Throwable error) {
    if (task.answer != null && task.answer.isCancelled()) {
      return CANCELLED;
    }
    if (error instanceof CompletionException && error.getCause() != null) {
      error = error.getCause();
    }
    if (error instanceof StatusRuntimeException failure) {
      return failure.getStatus();
    }
    if (error instanceof StatusException failure) {
      return failure.getStatus();
    }
    worker.log("command " + task.request.command(), error);
    return Status.INTERNAL.withDescription("internal error");
  }

  private void fail(long id, Status status) {
    var text = status.getDescription() == null ? "" : status.getDescription();
    var message = text.length() > MAX_MESSAGE ? text.substring(0, MAX_MESSAGE) : text;
    outbox.reply(
        Reply.newBuilder().setId(id).setStatus(status.getCode().value()).setMessage(message));
  }

  /** Lets the gateway take the request to another worker. */
  private void giveBack(long id, String reason) {
    int unavailable = Status.Code.UNAVAILABLE.value();
    outbox.reply(
        Reply.newBuilder().setId(id).setStatus(unavailable).setMessage(reason).setNotStarted(true));
  }

  private Heartbeat heartbeat(long number, long now) {
    long age = open.isEmpty() ? 0 : now - open.values().iterator().next().arrived;
    return Heartbeat.newBuilder()
        .setNumber(number)
        .setInFlight(open.size())
        .setOldestMs((int) TimeUnit.NANOSECONDS.toMillis(age))
        .build();
  }
}
