// What is known of a gateway's clock: it shows how long a message lay before it was read.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

namespace gatecrew {

class Clock {
 public:
  using Milliseconds = std::chrono::duration<double, std::milli>;

  // What a message that is read now took longer than the fastest one; 0 from a gateway that does not say when it sent
  // it.
  Milliseconds unread(std::uint64_t sent_ms, std::chrono::steady_clock::time_point now) {
    if (sent_ms == 0) return Milliseconds(0);
    const Milliseconds difference = Milliseconds(now - started_) - Milliseconds(sent_ms);
    offset_ = std::min(difference, offset_ + Milliseconds(now - at_) * kDrift);
    at_ = now;
    return std::min(difference - offset_, kMost);
  }

 private:
  static constexpr double kDrift = 0.001;  // a gateway's clock may run so much slower than ours
  static constexpr Milliseconds kMost{86'400'000};

  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point at_ = started_;                  // when we last looked
  Milliseconds offset_{std::numeric_limits<double>::infinity()};  // between the clocks, with the fastest message's way
};

}  // namespace gatecrew
