#include "contract/session.h"

#include <utility>

#include "contract/utf8.h"

namespace gatecrew {

void Session::update(const v1::SessionContext& context) {
  known = true;
  user = context.user();
  peer = context.peer();
  listener = context.listener();
  attributes = {context.attributes().begin(), context.attributes().end()};
}

void Session::push(std::uint32_t command, std::string body) {
  v1::Action action;
  action.mutable_push()->set_session(id);
  action.mutable_push()->set_command(command);
  action.mutable_push()->set_body(std::move(body));
  outbox_->act(std::move(action));
}

void Session::bind(const std::string& name) {
  v1::Action action;
  action.mutable_bind()->set_session(id);
  action.mutable_bind()->set_user(utf8(name));
  user = action.bind().user();
  outbox_->act(std::move(action));
}

void Session::set(const std::string& name, const std::string& value) {
  v1::Action action;
  action.mutable_set_attributes()->set_session(id);
  (*action.mutable_set_attributes()->mutable_attributes())[utf8(name)] = utf8(value);
  outbox_->act(std::move(action));
  if (value.empty()) {
    attributes.erase(utf8(name));
  } else {
    attributes[utf8(name)] = utf8(value);
  }
}

void Session::join(const std::string& group) {
  v1::Action action;
  action.mutable_join()->set_session(id);
  action.mutable_join()->set_group(utf8(group));
  outbox_->act(std::move(action));
}

void Session::leave(const std::string& group) {
  v1::Action action;
  action.mutable_leave()->set_session(id);
  action.mutable_leave()->set_group(utf8(group));
  outbox_->act(std::move(action));
}

void Session::kick(const std::string& reason) {
  v1::Action action;
  action.mutable_kick()->set_session(id);
  action.mutable_kick()->set_reason(utf8(reason));
  outbox_->act(std::move(action));
}

}  // namespace gatecrew
