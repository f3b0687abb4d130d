#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gatecrew {

// The text with U+FFFD for what is no UTF-8, cut after so many characters. A protobuf string that is no UTF-8 ends the
// stream at the other side, and clients send what they like.
std::string utf8(std::string_view text, std::size_t max_characters = std::string_view::npos);

}  // namespace gatecrew
