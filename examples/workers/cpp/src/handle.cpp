// The simplest worker: one call a packet.
#include <grpcpp/health_check_service_interface.h>

#include <chrono>

#include "contract/server.h"
#include "gatecrew/v1/worker.grpc.pb.h"

namespace v1 = gatecrew::v1;

class Upper final : public v1::LogicWorker::CallbackService {
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context, const v1::Request* request,
                                   v1::Reply* reply) override {
    reply->set_id(request->id());
    if (request->command() == 101) {
      for (const char c : request->body()) *reply->mutable_body() += c >= 'a' && c <= 'z' ? char(c - 'a' + 'A') : c;
    } else {
      reply->set_status(grpc::UNIMPLEMENTED);
      reply->set_message("no command " + std::to_string(request->command()));
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

int main() {
  const gatecrew::StopSignals stop;
  Upper upper;
  grpc::ServerBuilder builder;
  builder.RegisterService(&upper);
  const auto server = gatecrew::listen(builder);
  stop.wait();
  server->GetHealthCheckService()->SetServingStatus(false);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(10));
}
