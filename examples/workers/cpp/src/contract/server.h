// What every worker's server has in common: address, limits, health, signals.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <csignal>
#include <memory>
#include <string>

namespace gatecrew {

std::string environment(const char* name, const char* otherwise);

// Starts the server at HOST:PORT and says so. If the port is taken it says that and ends the process with 1.
std::unique_ptr<grpc::Server> listen(grpc::ServerBuilder& builder);

// SIGTERM and SIGINT. Make one before anything of gRPC: its threads must not take them.
class StopSignals {
 public:
  StopSignals();

  // Returns when one has come.
  void wait() const;

 private:
  sigset_t signals_;
};

}  // namespace gatecrew
