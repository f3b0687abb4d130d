#include "contract/worker.h"

#include <grpcpp/health_check_service_interface.h>

#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "contract/server.h"
#include "contract/utf8.h"

namespace gatecrew {

using std::chrono_literals::operator""s;

namespace {

constexpr auto kDrain = 10s;

std::string random_name() {
  std::random_device random;
  std::ostringstream name;
  name << std::hex << random() << random();
  return name.str();
}

}  // namespace

Worker::Worker(std::string service) {
  hello_.set_service(std::move(service));
  hello_.set_incarnation(random_name());
  hello_.set_max_in_flight(kMaxInFlight);  // and no concurrency: coroutines wait without a thread
}

Handler Worker::find(std::uint32_t command) const {
  const auto found = handlers_.find(command);
  return found == handlers_.end() ? nullptr : found->second;
}

void Worker::push_group(const std::string& group, std::uint32_t command, std::string body,
                        std::uint64_t except_session) {
  v1::Action action;
  action.mutable_push()->set_group(utf8(group));
  action.mutable_push()->set_command(command);
  action.mutable_push()->set_body(std::move(body));
  action.mutable_push()->set_except_session(except_session);
  for (const auto& link : links_) link->act(action);
}

int Worker::serve() {
  const StopSignals stop_signals;
  for (const auto& [command, handler] : handlers_) hello_.add_commands(command);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service_);
  Loop loop(builder.AddCompletionQueue());
  loop_ = &loop;
  const auto server = listen(builder);
  std::thread waiting([&] {
    stop_signals.wait();
    loop.post([&] { drain(*server); });
  });
  accept();
  while (!late_ && !(draining_ && links_.empty())) {
    loop.step();
    // Whatever has happened, here it is followed up: for a whole batch at once, on every link that it has touched.
    for (const auto& link : links_) link->advance();
  }
  waiting.join();
  stop(*server);
  return 0;
}

void Worker::accept() {
  const auto link = std::make_shared<Link>(*this);
  link->request(service_, [this, link](bool ok) {
    accepting_ = ok;
    if (!ok) return;
    accept();
    links_.insert(link);
    link->open();
  });
}

void Worker::drain(grpc::Server& server) {
  draining_ = true;
  server.GetHealthCheckService()->SetServingStatus(false);
  for (const auto& link : links_) link->drain();
  patience_ = loop_->after(kDrain, [this] { late_ = true; });
}

void Worker::stop(grpc::Server& server) {
  patience_ = {};
  server.Shutdown(std::chrono::system_clock::now());  // cancels the streams that are left
  while (accepting_ || !links_.empty()) loop_->step();
  loop_->shut_down();
}

}  // namespace gatecrew
