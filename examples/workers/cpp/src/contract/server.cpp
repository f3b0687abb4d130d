#include "contract/server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>

#include <cstdlib>
#include <iostream>

namespace gatecrew {

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

std::unique_ptr<grpc::Server> listen(grpc::ServerBuilder& builder) {
  const std::string host = environment("HOST", "127.0.0.1");
  int port = 0;
  builder.AddListeningPort(host + ":" + environment("PORT", "7101"), grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(4 << 20);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else two workers on one port share its connections
  // A gateway may ping as often as it needs to find a frozen worker.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // And a frozen gateway is found by ours.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  grpc::EnableDefaultHealthCheckService(true);

  gpr_set_log_function([](gpr_log_func_args*) {});  // a port that is taken is told by us, in one line
  auto server = builder.BuildAndStart();
  gpr_set_log_function(nullptr);
  if (!server) {
    std::cerr << "cannot listen on " << host << ":" << environment("PORT", "7101") << ": in use, or not ours\n";
    std::quick_exit(1);
  }
  server->GetHealthCheckService()->SetServingStatus("gatecrew.v1.LogicWorker", true);
  std::cout << "listening on " << host << ":" << port << std::endl;
  return server;
}

StopSignals::StopSignals() {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
}

void StopSignals::wait() const {
  int number = 0;
  sigwait(&signals_, &number);
}

}  // namespace gatecrew
