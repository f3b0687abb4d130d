// A worker: handlers by command, and the links of all gateways.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "contract/link.h"
#include "contract/loop.h"
#include "contract/session.h"
#include "contract/status.h"
#include "contract/task.h"
#include "gatecrew/v1/worker.grpc.pb.h"

namespace gatecrew {

// Handlers run on one thread and need no locks; what one of them waits for it must co_await, or it holds up all others.
class Worker {
 public:
  explicit Worker(std::string service);

  void on(std::uint32_t command, Handler handler) { handlers_[command] = handler; }
  // Serves at HOST:PORT until SIGTERM or SIGINT, drains, and returns the exit status.
  int serve();

  // For handlers.
  Sleep sleep(std::chrono::milliseconds duration) { return Sleep(*loop_, duration); }
  // To the sessions of every gateway.
  void push_group(const std::string& group, std::uint32_t command, std::string body, std::uint64_t except_session);
  const std::string& incarnation() const { return hello_.incarnation(); }
  std::uint64_t begun = 0;  // handlers in this process

  // For links.
  Handler find(std::uint32_t command) const;
  const v1::WorkerHello& hello() const { return hello_; }
  bool draining() const { return draining_; }
  Loop& loop() { return *loop_; }
  void remove(const std::shared_ptr<Link>& link) { links_.erase(link); }

 private:
  void accept();
  void drain(grpc::Server& server);
  void stop(grpc::Server& server);

  v1::WorkerHello hello_;
  std::map<std::uint32_t, Handler> handlers_;
  LinkService service_;
  Loop* loop_ = nullptr;  // while it serves
  std::set<std::shared_ptr<Link>> links_;
  bool accepting_ = true;
  bool draining_ = false;
  bool late_ = false;  // the drain has taken too long
  Timer patience_;
};

}  // namespace gatecrew
