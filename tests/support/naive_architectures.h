#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "tests/support/naive_decoder.h"

namespace strata::testing {

// Each architecture straight from its equation: x the layer's normed input, g(h) = h G / H.
// A list of presets is a chain of calls: NaiveArchitecture a = NaivePlain(); NaiveSvFormer(a, {0});
// NaiveReuse(a, {0, 4}, H).

// U_l = softmax(Q_l K_lᵀ / √d) V_l
NaiveArchitecture NaivePlain();

// U_l = softmax(Q_l K_lᵀ / √d) V_a, a the latest anchor at or below l. arXiv 2410.17897
void NaiveSvFormer(NaiveArchitecture& a, std::vector<int> anchors);

// V'_l = own V_l + first V_0 in the named layers. arXiv 2410.17897
void NaiveResFormer(NaiveArchitecture& a, double own, double first, std::vector<int> layers);
// The same with [own, first] from the tensor self_attn.value_mix of each of the layers.
void NaiveLearnableResFormer(NaiveArchitecture& a, std::vector<int> layers);

// U_l = P_m V_l. Every layer hands on a list of H probability matrices. A computing layer hands on
// its own, in head order. In another layer heads [0, reused) take the first `reused` matrices of
// the list from below and the others compute; it hands on the computed matrices, then the reused
// ones. arXiv 2110.06821
void NaiveReuse(NaiveArchitecture& a, std::vector<int> compute_layers, int reused);

// In layers l >= skip_layers the last skip_heads heads read K and V of the same head of layer
// l - skip_layers. arXiv 2406.11274
void NaiveSla(NaiveArchitecture& a, int skip_layers, int skip_heads);

// K and V of the first layer of each group of `factor`. arXiv 2405.12981
void NaiveCla(NaiveArchitecture& a, int factor);
// The same for groups of any shape.
void NaiveKvGroups(NaiveArchitecture& a, std::vector<std::vector<int>> groups);

// Kv heads below G / 2 read their own layer's values, the others layer 0's.
void NaiveSkipV1(NaiveArchitecture& a);

// Above layer n: keys of layer n, values of layer 0.
void NaiveFusedKvLite(NaiveArchitecture& a, int layer);

// A table with an entry for every head, followed entry by entry. Scores name query heads, keys and
// values name kv heads; a head that reuses scores has no keys of its own.
struct NaiveTable {
  using Ref = std::pair<int, int>;                                         // layer, head
  std::vector<std::vector<Ref>> scores;                                    // [layer][query head]
  std::vector<std::vector<Ref>> keys;                                      // [layer][query head]
  std::vector<std::vector<Ref>> values;                                    // [layer][query head]
  std::vector<std::vector<std::optional<std::pair<double, double>>>> mix;  // [layer][kv head]
};
NaiveArchitecture NaiveFromTable(NaiveTable table);

}  // namespace strata::testing
