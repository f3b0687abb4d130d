package gatecrew;

import gatecrew.v1.LogicWorkerGrpc;
import io.grpc.BindableService;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.services.HealthStatusManager;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** A worker's life: listen at HOST and PORT, serve until SIGTERM or SIGINT, drain. */
public final class Serve {
  private static final int MAX_MESSAGE = 4 << 20;
  private static final int DRAIN_SECONDS = 10;

  private Serve() {}

  /** Serves the worker until it is told to stop; then the process ends. */
  public static void serve(Worker worker) throws InterruptedException {
    serve(worker, () -> worker.drain(DRAIN_SECONDS));
  }

  /** What is done between the signal and the end. */
  @FunctionalInterface
  public interface Drain {
    void run() throws InterruptedException;
  }

  /** Serves any implementation of the contract. */
  public static void serve(BindableService service, Drain drain) throws InterruptedException {
    var environment = System.getenv();
    var address = address(environment);
    var health = new HealthStatusManager();
    health.setStatus(LogicWorkerGrpc.SERVICE_NAME, ServingStatus.SERVING);
    var server =
        NettyServerBuilder.forAddress(address)
            .directExecutor() // handlers do not block, so the connection's own thread calls them
            .addService(service)
            .addService(health.getHealthService())
            .maxInboundMessageSize(MAX_MESSAGE)
            .flowControlWindow(MAX_MESSAGE)
            // A gateway may ping as often as it needs to find a frozen worker, and a frozen gateway
            // is found by our pings.
            .permitKeepAliveTime(1, TimeUnit.SECONDS)
            .permitKeepAliveWithoutCalls(true)
            .keepAliveTime(10, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS)
            .build();
    try {
      server.start();
    } catch (IOException error) {
      System.err.printf(
          "cannot listen on %s: %s%n",
          name(address), error.getCause() == null ? error : error.getCause().getMessage());
      System.exit(1);
    }
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  try {
                    health.enterTerminalState();
                    drain.run();
                    server.shutdown().awaitTermination(1, TimeUnit.SECONDS);
                  } catch (InterruptedException error) {
                    Thread.currentThread().interrupt();
                  }
                  Runtime.getRuntime().halt(0); // else it would be the signal's number
                }));
    System.out.println("listening on " + name(address));
    server.awaitTermination();
  }

  private static InetSocketAddress address(Map<String, String> environment) {
    return new InetSocketAddress(
        environment.getOrDefault("HOST", "127.0.0.1"),
        Integer.parseInt(environment.getOrDefault("PORT", "7101")));
  }

  private static String name(InetSocketAddress address) {
    return address.getHostString() + ":" + address.getPort();
  }
}
