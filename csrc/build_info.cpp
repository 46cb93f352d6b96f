#include "build_info.h"

#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "constants.h"
#include "cpu/dispatch.h"

namespace {

using Strings = std::vector<std::string>;

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const unsigned char c : text) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, c < ' ' || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
    json += escaped;
  }
  return json + "\"";
}

std::string joined(const Strings& items) {
  std::string json;
  for (const std::string& item : items) json += (json.empty() ? "" : ", ") + item;
  return json;
}

std::string list(const Strings& texts) {
  Strings items;
  for (const std::string& text : texts) items.push_back(quoted(text));
  return "[" + joined(items) + "]";
}

// Of (key, value in JSON).
std::string object(const std::vector<std::pair<const char*, std::string>>& fields) {
  Strings items;
  for (const auto& [key, value] : fields) items.push_back(quoted(key) + ": " + value);
  return "{" + joined(items) + "}";
}

// TRACIN_CUDA_TARGETS lists them, with commas; empty without CUDA.
Strings cuda_targets() {
  Strings targets;
  std::istringstream text(TRACIN_CUDA_TARGETS);
  for (std::string target; std::getline(text, target, ',');) targets.push_back(target);
  return targets;
}

std::string constants() {
  std::vector<std::pair<const char*, std::string>> fields;
  for (const tracin::Constant& each : tracin::constants) fields.push_back({each.name, std::to_string(each.value)});
  return object(fields);
}

std::string build_info() {
  Strings variants;
  for (const tracin::cpu::Variant& variant : tracin::cpu::variants()) variants.push_back(variant.isa);
  return object({
      {"version", quoted(TRACIN_VERSION)},
      {"isa", quoted(tracin::cpu::chosen_variant().isa)},
      {"isa_variants", list(variants)},
      {"bfloat16", tracin::cpu::narrow_products() ? "true" : "false"},
      {"compiler", quoted(TRACIN_COMPILER)},
      {"cuda_targets", list(cuda_targets())},
      {"constants", constants()},
  });
}

}  // namespace

const char* tracin_build_info() {
  thread_local std::string text;
  try {
    text = build_info();
  } catch (const std::exception& error) {
    text = object({{"error", quoted(error.what())}});
  }
  return text.c_str();
}
