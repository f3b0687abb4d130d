// One gateway's stream, from hello to its end: from batches of requests to handlers, and from their ends to replies.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "contract/clock.h"
#include "contract/loop.h"
#include "contract/session.h"
#include "contract/task.h"
#include "gatecrew/v1/worker.grpc.pb.h"

namespace gatecrew {

class Worker;

using Handler = Task (*)(Request);
// `Handle` calls are answered UNIMPLEMENTED.
using LinkService =
    v1::LogicWorker::WithAsyncMethod_Link<v1::LogicWorker::WithCallbackMethod_Handle<v1::LogicWorker::Service>>;

inline constexpr std::size_t kMaxInFlight = 1024;

// Throws what the client is told of a reply that is too large. The link asks it of every reply.
void check_size(std::size_t bytes);

// A request that has no reply yet.
struct Call {
  std::uint64_t id;
  bool notify;
  std::chrono::steady_clock::time_point arrived;
  std::shared_ptr<Session> session;
  Handler handler;
  Request request;       // until it is begun
  Task task;             // from then on
  Call* next = nullptr;  // of the same session: begun when this one has ended
  std::list<Call>::iterator place;
};

// Lives as long as gRPC owes it an event.
class Link : public std::enable_shared_from_this<Link> {
 public:
  explicit Link(Worker& worker) : worker_(worker) {}

  // Waits for a gateway.
  void request(LinkService& service, std::function<void(bool ok)> accepted);
  void open();
  // Begins what can be begun, and writes what has gathered.
  void advance();
  void act(const v1::Action& action) { outbox_->act(action); }
  void drain() { outbox_->draining(); }

 private:
  void read();
  void on_read(bool ok);
  void take_in();
  bool begin_next();
  void admit(v1::Request& wire);
  void begin(Call& call);
  void cancel(std::uint64_t id);
  void answer(Call& call);
  void close(Call& call);
  void write();
  void finish();
  void on_done();

  const std::shared_ptr<Session>& session(std::uint64_t id);
  void forget(std::uint64_t id);
  bool stood_still() const;

  Worker& worker_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<v1::WorkerMessage, v1::GatewayMessage> stream_{&context_};
  const std::shared_ptr<Outbox> outbox_ = std::make_shared<Outbox>();
  std::unordered_map<std::uint64_t, std::shared_ptr<Session>> sessions_;
  std::list<Call> open_;      // oldest first
  std::deque<Call*> ready_;   // those of them whose turn has come
  v1::GatewayMessage batch_;  // being taken in, or being read into
  int taken_ = 0;             // requests of it
  bool taking_ = false;
  bool greeted_ = false;
  bool writing_ = false;
  std::optional<grpc::Status> end_;  // what to end the stream with when nothing is open any more
  std::chrono::steady_clock::time_point heard_at_;
  std::chrono::steady_clock::time_point arrived_;  // when the batch could have been read
  Clock clock_;
  Timer doubt_;
};

}  // namespace gatecrew
