#include "contract/outbox.h"

#include <stdexcept>
#include <utility>

namespace gatecrew {

namespace {

constexpr std::size_t kMessageBytes = 1 << 20;  // full; the body that fills it makes it 2 MiB, gRPC's limit is 4
constexpr std::size_t kItemBytes = 256;         // what a thing counts beside its body: at most 4096 in a message
constexpr std::size_t kFullBytes = 8 << 20;
constexpr std::size_t kOverflowBytes = 64 << 20;
constexpr std::size_t kMaxAction = kMaxBody + 4096;  // beside its body a push has only names and numbers

}  // namespace

v1::WorkerMessage& Outbox::room(std::size_t size) {
  if (messages_.empty() || messages_.back().bytes >= kMessageBytes) messages_.emplace_back();
  messages_.back().bytes += kItemBytes + size;
  bytes_ += kItemBytes + size;
  return messages_.back().content;
}

void Outbox::hello(const v1::WorkerHello& hello) { *room(0).mutable_hello() = hello; }

void Outbox::heartbeat(const v1::Heartbeat& heartbeat) {
  if (closed_) return;
  // Ahead of what waits.
  *(messages_.empty() ? room(0) : messages_.front().content).mutable_heartbeat() = heartbeat;
}

void Outbox::draining() {
  if (!closed_) room(0).set_draining(true);
}

void Outbox::reply(std::uint64_t id, std::string body) {
  if (closed_) return;
  auto& reply = *room(body.size()).add_replies();
  reply.set_id(id);
  reply.set_body(std::move(body));
}

void Outbox::refuse(std::uint64_t id, int status, std::string message, bool not_started) {
  if (closed_) return;
  auto& reply = *room(message.size()).add_replies();
  reply.set_id(id);
  reply.set_status(status);
  reply.set_message(std::move(message));
  reply.set_not_started(not_started);
}

void Outbox::act(v1::Action action) {
  const std::size_t size = action.ByteSizeLong();
  if (size > kMaxAction) throw std::length_error("an action of " + std::to_string(size) + " bytes");
  if (closed_) return;
  if (bytes_ + size > kOverflowBytes) {
    overflowed_ = true;
    close();
    return;
  }
  auto& message = room(size);
  action.set_after_replies(message.replies_size());
  *message.add_actions() = std::move(action);
}

bool Outbox::full() const { return bytes_ >= kFullBytes; }

v1::WorkerMessage Outbox::take() {
  auto message = std::move(messages_.front());
  messages_.pop_front();
  bytes_ -= message.bytes;
  return std::move(message.content);
}

void Outbox::close() {
  closed_ = true;
  messages_.clear();
  bytes_ = 0;
}

}  // namespace gatecrew
