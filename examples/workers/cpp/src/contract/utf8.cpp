#include "contract/utf8.h"

#include <cstdint>

namespace gatecrew {

namespace {

// How many bytes the character at the beginning has; 0 if there is none.
std::size_t character(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const std::uint8_t second = byte(1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool surrogate = first == 0xED && second >= 0xA0;
  const bool beyond = first == 0xF4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

}  // namespace

std::string utf8(std::string_view text, std::size_t max_characters) {
  std::string clean;
  for (; !text.empty() && max_characters > 0; --max_characters) {
    const std::size_t length = character(text);
    clean += length ? text.substr(0, length) : "\uFFFD";
    text.remove_prefix(length ? length : 1);
  }
  return clean;
}

}  // namespace gatecrew
