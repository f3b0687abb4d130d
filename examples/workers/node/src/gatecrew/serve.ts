import { logVerbosity, Server, ServerCredentials, setLogVerbosity } from "@grpc/grpc-js";
import type { ServerOptions, UntypedServiceImplementation } from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import { LogicWorkerService, type LogicWorkerServer } from "../pb/gatecrew/v1/worker.js";

const DRAIN_MS = 10_000;

const OPTIONS: ServerOptions = {
  "grpc.max_receive_message_length": 4 << 20,
  // A frozen gateway is found by our pings. Those of gateways are always welcome here: grpc-js does not count them.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
};

/**
 * Listens at HOST and PORT of the environment until SIGTERM or SIGINT, then drains. What is left out of the service is
 * answered UNIMPLEMENTED.
 */
export async function serve(service: Partial<LogicWorkerServer>, drain = async () => {}): Promise<never> {
  const address = `${process.env.HOST || "127.0.0.1"}:${process.env.PORT || "7101"}`;
  setLogVerbosity(logVerbosity.NONE); // of a port that is taken gRPC's own line says less than ours
  const server = new Server(OPTIONS);
  server.addService(LogicWorkerService, service as UntypedServiceImplementation);
  const health = new HealthImplementation({ "": "SERVING", "gatecrew.v1.LogicWorker": "SERVING" });
  health.addToServer(server);
  await new Promise<void>((resolve) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error) => {
      if (error !== null) {
        console.error(`cannot listen on ${address}: ${error.message}`);
        process.exit(1);
      }
      resolve();
    });
  });
  const signalled = new Promise((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  console.log(`listening on ${address}`);
  await signalled;

  setTimeout(() => process.exit(0), DRAIN_MS);
  health.setStatus("", "NOT_SERVING");
  health.setStatus("gatecrew.v1.LogicWorker", "NOT_SERVING");
  await drain();
  await new Promise((resolve) => server.tryShutdown(resolve));
  process.exit(0);
}
