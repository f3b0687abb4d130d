// What a handler is: a coroutine that ends with the body of its reply, or with an exception.
#pragma once

#include <coroutine>
#include <exception>
#include <functional>
#include <string>
#include <utility>

namespace gatecrew {

// Runs at once, up to its first wait; most handlers have none. Destroying it drops the handler where it waits, as is
// done when nobody waits for its answer any more: what it holds it must hold by objects that free it.
class [[nodiscard]] Task {
 public:
  struct promise_type;
  using Handle = std::coroutine_handle<promise_type>;

  struct promise_type {
    std::string body;
    std::exception_ptr error;
    std::function<void()> ended;

    // The frame stays until the Task goes, since it holds the result.
    struct End {
      bool await_ready() noexcept { return false; }
      void await_suspend(Handle handle) noexcept {
        // Moved: what is called may destroy the frame, and with it this object.
        if (const auto ended = std::move(handle.promise().ended)) ended();
      }
      void await_resume() noexcept {}
    };

    Task get_return_object() { return Task(Handle::from_promise(*this)); }
    std::suspend_never initial_suspend() noexcept { return {}; }
    End final_suspend() noexcept { return {}; }
    void return_value(std::string value) { body = std::move(value); }
    void unhandled_exception() { error = std::current_exception(); }
  };

  Task() = default;
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool done() const { return handle_.done(); }
  void on_end(std::function<void()> ended) { handle_.promise().ended = std::move(ended); }
  // The body, once; or the handler's exception.
  std::string result() {
    if (handle_.promise().error) std::rethrow_exception(handle_.promise().error);
    return std::move(handle_.promise().body);
  }

 private:
  explicit Task(Handle handle) : handle_(handle) {}

  Handle handle_;
};

}  // namespace gatecrew
