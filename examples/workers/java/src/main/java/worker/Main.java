package worker;

import com.google.protobuf.ByteString;
import gatecrew.Handler;
import gatecrew.Request;
import gatecrew.Serve;
import gatecrew.Worker;
import io.grpc.Status;
import java.util.Arrays;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The reference worker in Java. What each command does is said in examples/workers/README.md of
 * Gatecrew.
 */
public final class Main {
  private static final int PUSHED = 109;
  private static final int SAID = 112;
  private static final ByteString OK = ByteString.copyFromUtf8("ok");

  private static final Worker WORKER = new Worker(System.getenv().getOrDefault("SERVICE", "tour"));
  private static final AtomicLong BEGUN = new AtomicLong(); // handlers that this process has begun

  private Main() {}

  /** A handler that has its answer at once. */
  @FunctionalInterface
  private interface Quick {
    ByteString answer(Request request) throws Exception;
  }

  public static void main(String[] arguments) throws InterruptedException {
    on(101, Request::body);
    on(102, Main::refuse);
    on(103, Main::crash);
    onLater(104, Main::await);
    on(105, Main::count);
    on(106, request -> text("java " + WORKER.incarnation + " " + BEGUN));
    on(107, Main::big);
    on(108, Main::who);
    on(PUSHED, request -> done(() -> request.session().push(PUSHED, request.body())));
    on(110, request -> done(() -> request.session().join(text(request))));
    on(111, request -> done(() -> request.session().leave(text(request))));
    on(SAID, Main::say);
    on(113, request -> done(() -> request.session().bind(text(request))));
    on(114, Main::set);
    on(115, Main::kick);
    Serve.serve(WORKER);
  }

  private static void on(int command, Quick quick) {
    onLater(command, request -> CompletableFuture.completedFuture(quick.answer(request)));
  }

  private static void onLater(int command, Handler handler) {
    WORKER.on(
        command,
        request -> {
          BEGUN.incrementAndGet();
          return handler.handle(request);
        });
  }

  private static ByteString refuse(Request request) {
    throw Status.FAILED_PRECONDITION.withDescription(text(request)).asRuntimeException();
  }

  private static ByteString crash(Request request) {
    throw new IllegalStateException("as asked");
  }

  private static CompletableFuture<ByteString> await(Request request) {
    long milliseconds = number(request);
    var answer = new CompletableFuture<ByteString>();
    var timer =
        Worker.TIMER.schedule(
            () -> answer.complete(request.body()), milliseconds, TimeUnit.MILLISECONDS);
    answer.whenComplete((body, error) -> timer.cancel(false)); // nobody waits any more
    return answer;
  }

  private static ByteString count(Request request) {
    var session = request.session();
    long counted = session.state instanceof Long before ? before + 1 : 1;
    session.state = counted;
    return text(Long.toString(counted));
  }

  private static ByteString big(Request request) {
    long size = number(request);
    if (size > Handler.MAX_BODY) { // said before so much memory is asked for
      throw Handler.tooLarge(size).asRuntimeException();
    }
    var body = new byte[(int) size];
    Arrays.fill(body, (byte) 'x');
    return ByteString.copyFrom(body);
  }

  private static ByteString who(Request request) {
    var client = request.context();
    var answer = new StringBuilder("session=").append(Long.toUnsignedString(client.getSession()));
    answer.append("\nuser=").append(client.getUser());
    answer.append("\npeer=").append(client.getPeer());
    answer.append("\nlistener=").append(client.getListener());
    new TreeMap<>(client.getAttributesMap())
        .forEach((name, value) -> answer.append('\n').append(name).append('=').append(value));
    return text(answer.toString());
  }

  private static ByteString say(Request request) {
    int space = cut(request.body(), ' ');
    var group = request.body().substring(0, space).toStringUtf8();
    var said = request.body().substring(Math.min(space + 1, request.body().size()));
    return done(() -> WORKER.pushGroup(group, SAID, said, request.session().id));
  }

  private static ByteString set(Request request) {
    int equals = cut(request.body(), '=');
    var name = request.body().substring(0, equals).toStringUtf8();
    var value =
        request.body().substring(Math.min(equals + 1, request.body().size())).toStringUtf8();
    return done(() -> request.session().set(name, value));
  }

  private static ByteString kick(Request request) {
    request.session().kick(text(request));
    return ByteString.EMPTY;
  }

  private static ByteString done(Runnable action) {
    action.run();
    return OK;
  }

  /** Where the first of these bytes is, or the end. */
  private static int cut(ByteString body, char at) {
    for (int index = 0; index < body.size(); index++) {
      if (body.byteAt(index) == at) {
        return index;
      }
    }
    return body.size();
  }

  private static String text(Request request) {
    return request.body().toStringUtf8();
  }

  private static ByteString text(String text) {
    return ByteString.copyFromUtf8(text);
  }

  private static long number(Request request) {
    var digits = request.body().toStringUtf8();
    if (!digits.matches("[0-9]{1,12}")) {
      throw Status.INVALID_ARGUMENT.withDescription("give a decimal number").asRuntimeException();
    }
    return Long.parseLong(digits);
  }
}
