#include "contract/link.h"

#include <algorithm>
#include <iostream>
#include <utility>

#include "contract/status.h"
#include "contract/utf8.h"
#include "contract/worker.h"

namespace gatecrew {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono_literals::operator""s;
using std::chrono_literals::operator""ms;

namespace {

constexpr auto kLease = 2s;  // a gateway speaks every second; after such a silence another worker may have our requests
constexpr auto kDoubt = 200ms;             // for a cancellation to overtake what came before it
constexpr std::size_t kMaxMessage = 1024;  // characters that a client is shown

// One line a second: a handler may be wrong a million times.
void complain(std::uint32_t command, const char* what) {
  static steady_clock::time_point quiet_until;
  const auto now = steady_clock::now();
  if (now < quiet_until) return;
  quiet_until = now + 1s;
  std::cerr << "handler of command " << command << " failed: " << what << std::endl;
}

// For a handler that is no coroutine, or got no memory to become one.
Task failed(std::exception_ptr error) {
  std::rethrow_exception(error);
  co_return "";
}

}  // namespace

void check_size(std::size_t bytes) {
  if (bytes <= kMaxBody) return;
  const std::string most = std::to_string(kMaxBody);
  throw StatusError(grpc::INTERNAL, "a reply of " + std::to_string(bytes) + " bytes; " + most + " at most");
}

// The stream.

void Link::request(LinkService& service, std::function<void(bool ok)> accepted) {
  void* done = Loop::tag([self = shared_from_this()](bool) { self->on_done(); });
  context_.AsyncNotifyWhenDone(done);
  const auto queue = worker_.loop().queue();
  service.RequestLink(&context_, &stream_, queue, queue, Loop::tag([done, accepted = std::move(accepted)](bool ok) {
    if (!ok) Loop::drop(done);  // the server has ended, and gRPC forgets it
    accepted(ok);
  }));
}

void Link::open() {
  outbox_->hello(worker_.hello());
  if (worker_.draining()) outbox_->draining();
  heard_at_ = steady_clock::now();
  read();
}

void Link::read() {
  taking_ = false;
  stream_.Read(&batch_, Loop::tag([self = shared_from_this()](bool ok) { self->on_read(ok); }));
}

void Link::on_read(bool ok) {
  if (!ok) {
    end_ = grpc::Status::OK;  // the gateway asks nothing more; what is open it may still want to know
  } else if (stood_still()) {
    doubt_ = worker_.loop().after(kDoubt, [this] { take_in(); });
  } else {
    take_in();
  }
}

void Link::advance() {
  while (!outbox_->full() && begin_next()) {
  }
  if (outbox_->overflowed()) context_.TryCancel();
  if (writing_) return;
  if (!outbox_->empty()) {
    write();
  } else if (end_ && open_.empty()) {
    finish();
  }
}

void Link::write() {
  writing_ = true;
  stream_.Write(outbox_->take(), Loop::tag([self = shared_from_this()](bool) { self->writing_ = false; }));
}

void Link::finish() {
  writing_ = true;  // for good
  stream_.Finish(*end_, Loop::tag([self = shared_from_this()](bool) {}));
}

void Link::on_done() {
  worker_.remove(shared_from_this());
  outbox_->close();
  ready_.clear();
  open_.clear();  // drops the handlers that still wait
  sessions_.clear();
  doubt_ = {};
}

// What comes.

void Link::take_in() {
  heard_at_ = steady_clock::now();
  if (!greeted_ && !batch_.has_hello()) {
    end_ = grpc::Status(grpc::INVALID_ARGUMENT, "the first message has no hello");
    return;
  }
  greeted_ = true;
  arrived_ = heard_at_ - std::chrono::duration_cast<steady_clock::duration>(clock_.unread(batch_.sent_ms(), heard_at_));
  if (batch_.has_heartbeat()) {
    auto& heartbeat = *batch_.mutable_heartbeat();
    const auto age = open_.empty() ? steady_clock::duration::zero() : heard_at_ - open_.front().arrived;
    heartbeat.set_in_flight(open_.size());
    heartbeat.set_oldest_ms(std::chrono::duration_cast<milliseconds>(age).count());
    outbox_->heartbeat(heartbeat);
  }
  for (const auto& context : batch_.sessions()) session(context.session())->update(context);
  taken_ = 0;
  taking_ = true;
}

bool Link::begin_next() {
  if (!ready_.empty()) {
    Call& call = *ready_.front();
    ready_.pop_front();
    begin(call);
    return true;
  }
  if (!taking_) return false;
  if (taken_ < batch_.requests_size()) {
    admit(*batch_.mutable_requests(taken_++));
    return true;
  }
  for (const auto id : batch_.forgotten_sessions()) forget(id);
  for (const auto id : batch_.cancelled_requests()) cancel(id);
  read();
  return !ready_.empty();
}

const std::shared_ptr<Session>& Link::session(std::uint64_t id) {
  auto& session = sessions_[id];
  if (!session) session = std::make_shared<Session>(id, outbox_);
  return session;
}

void Link::forget(std::uint64_t id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  found->second->known = false;
  if (!found->second->last) sessions_.erase(found);
}

bool Link::stood_still() const { return steady_clock::now() - heard_at_ > kLease; }

// From a request to its reply.

void Link::admit(v1::Request& wire) {
  if (wire.kind() > v1::KIND_NOTIFY) return outbox_->reply(wire.id(), "");
  const Handler handler = worker_.find(wire.command());
  if (!handler) {
    return outbox_->refuse(wire.id(), grpc::UNIMPLEMENTED, "no handler for command " + std::to_string(wire.command()));
  }
  if (worker_.draining()) return outbox_->refuse(wire.id(), grpc::UNAVAILABLE, "the worker is draining", true);
  if (open_.size() >= kMaxInFlight) {
    return outbox_->refuse(wire.id(), grpc::UNAVAILABLE, "the worker has too much in flight", true);
  }
  Call& call = open_.emplace_back();
  call.place = std::prev(open_.end());
  call.id = wire.id();
  call.notify = wire.kind() == v1::KIND_NOTIFY;
  call.arrived = arrived_;
  call.session = session(wire.session());
  call.handler = handler;
  call.request = {
      .id = wire.id(),
      .command = wire.command(),
      .attempt = wire.attempt(),
      .notify = call.notify,
      .deadline = wire.remaining_ms() ? arrived_ + milliseconds(wire.remaining_ms()) : steady_clock::time_point::max(),
      .session = call.session,
      .body = std::move(*wire.mutable_body()),
  };
  if (Call* before = std::exchange(call.session->last, &call)) {
    before->next = &call;
  } else {
    begin(call);
  }
}

void Link::begin(Call& call) {
  if (stood_still()) {
    outbox_->refuse(call.id, grpc::UNAVAILABLE, "the worker stood still", true);
    return close(call);
  }
  if (steady_clock::now() > call.request.deadline) {
    outbox_->refuse(call.id, grpc::DEADLINE_EXCEEDED, "the deadline passed before the handler started");
    return close(call);
  }
  ++worker_.begun;
  try {
    call.task = call.handler(std::move(call.request));
  } catch (...) {
    call.task = failed(std::current_exception());
  }
  if (call.task.done()) {
    answer(call);
  } else {
    call.task.on_end([this, &call] { answer(call); });
  }
}

// Ends what nobody waits for any more: the handler is dropped where it waits, and its session goes on.
void Link::cancel(std::uint64_t id) {
  const auto found = std::find_if(open_.begin(), open_.end(), [id](const Call& call) { return call.id == id; });
  if (found == open_.end()) return;  // answered before it came to that
  Call& call = *found;
  outbox_->refuse(id, grpc::CANCELLED, "nobody waits for the answer any more");
  const auto before = std::find_if(open_.begin(), open_.end(), [&call](const Call& it) { return it.next == &call; });
  if (before == open_.end()) {
    std::erase(ready_, &call);
    call.task = {};
    return close(call);
  }
  before->next = call.next;
  if (call.session->last == &call) call.session->last = &*before;
  open_.erase(found);
}

void Link::answer(Call& call) {
  try {
    std::string body = call.task.result();
    check_size(body.size());
    outbox_->reply(call.id, call.notify ? "" : std::move(body));
  } catch (const StatusError& refusal) {
    outbox_->refuse(call.id, refusal.code(), utf8(refusal.message(), kMaxMessage));
  } catch (const std::exception& crash) {
    complain(call.request.command, crash.what());
    outbox_->refuse(call.id, grpc::INTERNAL, "internal error");
  } catch (...) {
    complain(call.request.command, "an exception of an unknown type");
    outbox_->refuse(call.id, grpc::INTERNAL, "internal error");
  }
  close(call);
}

void Link::close(Call& call) {
  if (call.next) {
    ready_.push_back(call.next);
  } else {
    call.session->last = nullptr;
    if (!call.session->known) sessions_.erase(call.session->id);
  }
  open_.erase(call.place);
}

}  // namespace gatecrew
