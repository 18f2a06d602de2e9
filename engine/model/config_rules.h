#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "engine/base/json_reader.h"

namespace strata::engine {

// Checks that config.json describes the decoder that is built here and no other: a key that changes
// the mathematics must be missing, null or at a value without effect (the table in the source is
// the list). A key that is not in the table is ignored: configs are full of training and library
// settings. Anything else fails `config`, UNIMPLEMENTED naming the key and its value.
//
// `default_window`: the sliding window of a config without that key, 0 for none.
void CheckMathematics(JsonReader& config, int64_t max_positions, int64_t default_window);

// Fails `config` if `key` is missing but one of `others` is present. They are names of `key` in
// other configs; without this a default would be used instead.
void RefuseOtherNames(JsonReader& config, std::string_view key,
                      std::initializer_list<std::string_view> others);

}  // namespace strata::engine
