// A client's connection as its worker sees it, and what a client asks.
#pragma once

#include <any>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "contract/outbox.h"

namespace gatecrew {

struct Call;

// Its methods queue what they do at once, ahead of the reply of the handler that calls them.
class Session {
 public:
  Session(std::uint64_t session_id, std::shared_ptr<Outbox> outbox) : id(session_id), outbox_(std::move(outbox)) {}

  const std::uint64_t id;
  std::string user;  // empty until a worker binds one
  std::string peer;
  std::string listener;
  std::map<std::string, std::string> attributes;

  void push(std::uint32_t command, std::string body);
  void bind(const std::string& name);
  // An empty value removes the attribute.
  void set(const std::string& name, const std::string& value);
  void join(const std::string& group);
  void leave(const std::string& group);
  void kick(const std::string& reason);

  // What the handlers keep of the session, one type for all of them; it goes with the session.
  template <typename T>
  T& kept() {
    if (!kept_.has_value()) kept_.emplace<T>();
    return std::any_cast<T&>(kept_);
  }

  // For the link.
  void update(const v1::SessionContext& context);
  bool known = false;    // the gateway has said who it is, and not yet that it has gone
  Call* last = nullptr;  // its youngest open request, behind which the next one waits

 private:
  std::shared_ptr<Outbox> outbox_;
  std::any kept_;
};

struct Request {
  std::uint64_t id = 0;  // (session, id) is the idempotency key
  std::uint32_t command = 0;
  std::uint32_t attempt = 0;  // above 0 an earlier attempt may have run
  bool notify = false;        // nobody hears the reply
  std::chrono::steady_clock::time_point deadline;
  std::shared_ptr<Session> session;
  std::string body;
};

}  // namespace gatecrew
