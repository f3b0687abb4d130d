// The handlers. What each command does is said in the README of the folder above.
#include <charconv>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "contract/server.h"
#include "contract/worker.h"

using gatecrew::Request;
using gatecrew::StatusError;
using gatecrew::Task;

namespace {

constexpr std::uint32_t kPush = 109;
constexpr std::uint32_t kSay = 112;

gatecrew::Worker worker(gatecrew::environment("SERVICE", "tour"));

// What is kept of a session, as long as its gateway speaks of it.
struct Kept {
  std::uint64_t count = 0;
};

std::int64_t number(const std::string& body) {
  std::int64_t value = -1;
  const char* end = body.data() + body.size();
  const auto [stop, error] = std::from_chars(body.data(), end, value);
  if (error != std::errc() || stop != end || value < 0) {
    throw StatusError(grpc::INVALID_ARGUMENT, "give a decimal number");
  }
  return value;
}

Task echo(Request request) { co_return std::move(request.body); }

Task refuse(Request request) { throw StatusError(grpc::FAILED_PRECONDITION, request.body); }

Task crash(Request) { throw std::logic_error("as asked"); }

Task wait(Request request) {
  co_await worker.sleep(std::chrono::milliseconds(number(request.body)));
  co_return std::move(request.body);
}

Task count(Request request) { co_return std::to_string(++request.session->kept<Kept>().count); }

Task about(Request) { co_return "cpp " + worker.incarnation() + " " + std::to_string(worker.begun); }

Task big(Request request) {
  const auto size = number(request.body);
  gatecrew::check_size(size);  // before so much memory is taken
  co_return std::string(size, 'x');
}

Task who(Request request) {
  const auto& session = *request.session;
  std::string text = "session=" + std::to_string(session.id) + "\nuser=" + session.user + "\npeer=" + session.peer +
                     "\nlistener=" + session.listener;
  for (const auto& [name, value] : session.attributes) text += "\n" + name + "=" + value;
  co_return text;
}

Task push(Request request) {
  request.session->push(kPush, request.body);
  co_return "ok";
}

Task join(Request request) {
  request.session->join(request.body);
  co_return "ok";
}

Task leave(Request request) {
  request.session->leave(request.body);
  co_return "ok";
}

Task say(Request request) {
  const auto space = request.body.find(' ');
  const std::string text = space == std::string::npos ? "" : request.body.substr(space + 1);
  worker.push_group(request.body.substr(0, space), kSay, text, request.session->id);
  co_return "ok";
}

Task bind(Request request) {
  request.session->bind(request.body);
  co_return "ok";
}

Task set(Request request) {
  const auto equals = request.body.find('=');
  const std::string value = equals == std::string::npos ? "" : request.body.substr(equals + 1);
  request.session->set(request.body.substr(0, equals), value);
  co_return "ok";
}

Task kick(Request request) {
  request.session->kick(request.body);
  co_return "";
}

}  // namespace

int main() {
  worker.on(101, echo);
  worker.on(102, refuse);
  worker.on(103, crash);
  worker.on(104, wait);
  worker.on(105, count);
  worker.on(106, about);
  worker.on(107, big);
  worker.on(108, who);
  worker.on(kPush, push);
  worker.on(110, join);
  worker.on(111, leave);
  worker.on(kSay, say);
  worker.on(113, bind);
  worker.on(114, set);
  worker.on(115, kick);
  return worker.serve();
}
