package gatecrew;

import com.google.protobuf.ByteString;
import gatecrew.v1.LogicWorkerGrpc;
import gatecrew.v1.Worker.Action;
import gatecrew.v1.Worker.GatewayMessage;
import gatecrew.v1.Worker.Push;
import gatecrew.v1.Worker.WorkerHello;
import gatecrew.v1.Worker.WorkerMessage;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A service: its handlers, and the links to the gateways that it serves. To be passed to {@link
 * Serve}.
 */
public final class Worker extends LogicWorkerGrpc.LogicWorkerImplBase {
  /** For handlers that wait, and pushes to other gateways. Its one thread must not be blocked. */
  public static final ScheduledExecutorService TIMER =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            var thread = new Thread(task, "timer");
            thread.setDaemon(true);
            return thread;
          });

  static final int MAX_IN_FLIGHT = 1024; // requests of one link

  /** Random, one process life. */
  public final String incarnation = UUID.randomUUID().toString();

  private final String service;
  private final Map<Integer, Handler> handlers = new HashMap<>();
  private final Set<Link> links = ConcurrentHashMap.newKeySet();
  private final AtomicLong logged = new AtomicLong(System.nanoTime() - TimeUnit.SECONDS.toNanos(1));
  private volatile boolean draining;

  /** A worker without handlers, of the service as it is registered. */
  public Worker(String service) {
    this.service = service;
  }

  /** Serves a command. All handlers must be set before the worker is served. */
  public void on(int command, Handler handler) {
    handlers.put(command, handler);
  }

  /**
   * Sends a packet to the members of a group, whichever gateway they are at, but not to one session
   * (0: to all).
   */
  public void pushGroup(String group, int command, ByteString body, long exceptSession) {
    if (body.size() > Handler.MAX_BODY) {
      throw Handler.tooLarge(body.size()).asRuntimeException();
    }
    var push =
        Push.newBuilder()
            .setGroup(group)
            .setCommand(command)
            .setBody(body)
            .setExceptSession(exceptSession)
            .build();
    for (var link : links) {
      if (Thread.holdsLock(link)) { // a handler of that link
        link.act(Action.newBuilder().setPush(push));
      } else { // not here: two links that push to each other would wait for each other's lock
        TIMER.execute(() -> link.actIfItReads(Action.newBuilder().setPush(push)));
      }
    }
  }

  /**
   * Gives back what still comes, on every link. A gateway closes its side when nothing is open any
   * more; this returns when all links have ended, or after so many seconds.
   */
  void drain(int seconds) throws InterruptedException {
    draining = true;
    links.forEach(Link::drain);
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
    while (!links.isEmpty() && System.nanoTime() < until) {
      Thread.sleep(10);
    }
  }

  @Override
  public StreamObserver<GatewayMessage> link(StreamObserver<WorkerMessage> gateway) {
    var link = new Link(this, (ServerCallStreamObserver<WorkerMessage>) gateway);
    links.add(link);
    link.start();
    return link;
  }

  void left(Link link) {
    links.remove(link);
  }

  boolean isDraining() {
    return draining;
  }

  Handler handler(int command) {
    return handlers.get(command);
  }

  WorkerHello hello() {
    return WorkerHello.newBuilder()
        .setService(service)
        .setIncarnation(incarnation)
        .addAllCommands(new TreeSet<>(handlers.keySet()))
        .setNoCommands(handlers.isEmpty())
        .setMaxInFlight(MAX_IN_FLIGHT) // and no concurrency: handlers wait without a thread
        .build();
  }

  /** One failure a second: a client must not be able to fill the log. */
  void log(String where, Throwable error) {
    long now = System.nanoTime();
    long last = logged.get();
    if (now - last >= TimeUnit.SECONDS.toNanos(1) && logged.compareAndSet(last, now)) {
      System.err.print(where + ": ");
      error.printStackTrace();
    }
  }
}
