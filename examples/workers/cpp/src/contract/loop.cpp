#include "contract/loop.h"

#include <grpc/support/time.h>

#include <utility>

namespace gatecrew {

using Event = std::function<void(bool ok)>;

struct Timer::State {
  grpc::Alarm alarm;
  std::function<void()> fire;
};

Timer::Timer(grpc::CompletionQueue* queue, std::chrono::milliseconds delay, std::function<void()> fire)
    : state_(std::make_shared<State>()) {
  state_->fire = std::move(fire);
  const auto span = gpr_time_from_millis(delay.count(), GPR_TIMESPAN);
  // An alarm that has gone off cannot be cancelled any more while its event waits in the queue; `fire` can be emptied.
  state_->alarm.Set(queue, gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), span), Loop::tag([state = state_](bool) {
                      if (const auto action = std::move(state->fire)) action();
                    }));
}

Timer& Timer::operator=(Timer&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Timer::~Timer() {
  if (!state_) return;
  state_->fire = nullptr;
  state_->alarm.Cancel();
}

void* Loop::tag(std::function<void(bool ok)> event) { return new Event(std::move(event)); }

void Loop::drop(void* tag) { delete static_cast<Event*>(tag); }

bool Loop::step() {
  void* tag = nullptr;
  bool ok = false;
  if (!queue_->Next(&tag, &ok)) return false;
  const std::unique_ptr<Event> event(static_cast<Event*>(tag));
  (*event)(ok);
  return true;
}

void Loop::shut_down() {
  queue_->Shutdown();
  while (step()) {
  }
}

Timer Loop::after(std::chrono::milliseconds delay, std::function<void()> fire) {
  return Timer(queue_.get(), delay, std::move(fire));
}

void Loop::post(std::function<void()> event) {
  const auto alarm = std::make_shared<grpc::Alarm>();
  alarm->Set(queue_.get(), gpr_now(GPR_CLOCK_MONOTONIC), tag([alarm, event = std::move(event)](bool) { event(); }));
}

}  // namespace gatecrew
