// The one thread on which everything happens: gRPC's events, timers and the handlers. Hence there are no locks.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

#include <chrono>
#include <coroutine>
#include <functional>
#include <memory>

namespace gatecrew {

// Does nothing any more once it is destroyed.
class Timer {
 public:
  Timer() = default;
  Timer(grpc::CompletionQueue* queue, std::chrono::milliseconds delay, std::function<void()> fire);
  Timer(Timer&&) = default;
  Timer& operator=(Timer&& other) noexcept;
  ~Timer();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

class Loop {
 public:
  explicit Loop(std::unique_ptr<grpc::ServerCompletionQueue> queue) : queue_(std::move(queue)) {}

  // What gRPC is given with an operation: it runs, once, when the operation has ended.
  static void* tag(std::function<void(bool ok)> event);
  // Drops the tag of an operation that never was begun.
  static void drop(void* tag);

  // Waits for one event and runs it. Returns false when nothing will come any more.
  bool step();
  // Runs what is still under way; nothing can be begun any more.
  void shut_down();

  Timer after(std::chrono::milliseconds delay, std::function<void()> fire);
  // The one method for other threads.
  void post(std::function<void()> event);

  grpc::ServerCompletionQueue* queue() { return queue_.get(); }

 private:
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
};

// co_await it.
class Sleep {
 public:
  Sleep(Loop& loop, std::chrono::milliseconds duration) : loop_(loop), duration_(duration) {}

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    timer_ = loop_.after(duration_, [waiter] { waiter.resume(); });
  }
  void await_resume() const noexcept {}

 private:
  Loop& loop_;
  std::chrono::milliseconds duration_;
  Timer timer_;
};

}  // namespace gatecrew
