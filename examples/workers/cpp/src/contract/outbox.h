// What waits to be written to one gateway. Replies and actions gather here, in the order in which the handlers made
// them, while a write is under way; the next write takes all of them, up to a message's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "gatecrew/v1/worker.pb.h"

namespace gatecrew {

inline constexpr std::size_t kMaxBody = (1 << 20) - 8;

class Outbox {
 public:
  void hello(const v1::WorkerHello& hello);
  void heartbeat(const v1::Heartbeat& heartbeat);
  void draining();
  void reply(std::uint64_t id, std::string body);
  void refuse(std::uint64_t id, int status, std::string message, bool not_started = false);
  // Throws std::length_error if it is too large for a message.
  void act(v1::Action action);

  bool empty() const { return messages_.empty(); }
  // So much waits that no handler should be begun.
  bool full() const;
  // The gateway does not read, and handlers push on: what waited is dropped, the stream is to be cancelled.
  bool overflowed() const { return overflowed_; }
  v1::WorkerMessage take();
  // Drops what waits and what still comes: the stream has ended.
  void close();

 private:
  struct Message {
    v1::WorkerMessage content;
    std::size_t bytes = 0;
  };

  // The message that takes one more thing.
  v1::WorkerMessage& room(std::size_t size);

  std::deque<Message> messages_;
  std::size_t bytes_ = 0;
  bool closed_ = false;
  bool overflowed_ = false;
};

}  // namespace gatecrew
