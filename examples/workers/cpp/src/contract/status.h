#pragma once

#include <grpcpp/support/status_code_enum.h>

#include <exception>
#include <string>
#include <utility>

namespace gatecrew {

// A handler throws it to refuse; the client is shown the message. Any other exception is status 13, `internal error`.
class StatusError : public std::exception {
 public:
  StatusError(grpc::StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  grpc::StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  grpc::StatusCode code_;
  std::string message_;
};

}  // namespace gatecrew
