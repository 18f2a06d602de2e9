#include "tests/support/random_plan.h"

#include <random>

namespace strata::testing {
namespace {

using nlohmann::json;
using Ref = NaiveTable::Ref;

class PlanMaker {
 public:
  PlanMaker(uint64_t seed, int layers, int query_heads, int kv_heads)
      : random_(seed), layers_(layers), query_heads_(query_heads), kv_heads_(kv_heads) {}

  RandomPlan Make() {
    // Plans differ in their shares: some share nearly everything, some almost nothing.
    const int score_percent = Below(90);
    const int key_percent = Below(90);
    const int value_percent = Below(90);
    const int mix_percent = Below(2) == 0 ? 0 : Below(60);
    for (int l = 0; l < layers_; ++l) {
      table_.scores.emplace_back();
      table_.keys.emplace_back();
      table_.values.emplace_back();
      for (int h = 0; h < query_heads_; ++h) {
        table_.scores.back().push_back(Percent(score_percent) ? ScoreSource(l, h) : Ref(l, h));
        table_.keys.back().push_back(PlaneSource(l, h, key_percent));
        table_.values.back().push_back(PlaneSource(l, h, value_percent));
      }
      table_.mix.emplace_back();
      for (int g = 0; g < kv_heads_; ++g) {
        std::optional<std::pair<double, double>> mix;
        if (l > 0 && Percent(mix_percent)) mix = {Eighths(), Eighths()};
        table_.mix.back().push_back(mix);
      }
    }
    return {.cross_layer = Json(), .table = table_};
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  bool Percent(int percent) { return Below(100) < percent; }
  double Eighths() { return (Below(25) - 8) / 8.0; }  // -1 to 2, exact in a float
  int KvHeadOf(int h) const { return h * kv_heads_ / query_heads_; }

  // In the head's own layer only lower heads, so that no chain is a ring.
  Ref ScoreSource(int l, int h) {
    const int layer = Percent(40) && l > 0 ? l - 1 : Below(l + 1);
    if (layer == l) return {l, Below(h + 1)};
    return {layer, Percent(50) ? h : Below(query_heads_)};
  }

  Ref PlaneSource(int l, int h, int percent) {
    if (!Percent(percent)) return {l, KvHeadOf(h)};
    return {Below(l + 1), Percent(50) ? KvHeadOf(h) : Below(kv_heads_)};
  }

  // One of the notations of `source`.
  json Entry(Ref source, Ref self, int same_head) {
    if (source == self && Percent(70)) return nullptr;
    if (source.second == same_head && Percent(50)) return source.first;
    return json::array({source.first, source.second});
  }

  // A whole layer as null or one number if that means the same, else a list.
  json LayerEntry(const json& heads) {
    bool all_equal = true;
    for (const json& head : heads) all_equal = all_equal && head == heads[0];
    const bool short_form = heads[0].is_null() || heads[0].is_number();
    return all_equal && short_form && Percent(80) ? heads[0] : heads;
  }

  json Json() {
    json scores = json::array();
    json keys = json::array();
    json values = json::array();
    json mixes = json::array();
    for (int l = 0; l < layers_; ++l) {
      const auto layer = static_cast<size_t>(l);
      json own_scores = json::array();
      json own_keys = json::array();
      json own_values = json::array();
      for (int h = 0; h < query_heads_; ++h) {
        const auto head = static_cast<size_t>(h);
        const Ref self(l, KvHeadOf(h));
        const Ref source = table_.scores[layer][head];
        own_scores.push_back(Entry(source, {l, h}, h));
        // A head that reuses scores has no keys to name.
        own_keys.push_back(source == Ref(l, h) ? Entry(table_.keys[layer][head], self, self.second)
                                               : json(nullptr));
        own_values.push_back(Entry(table_.values[layer][head], self, self.second));
      }
      scores.push_back(LayerEntry(own_scores));
      keys.push_back(LayerEntry(own_keys));
      values.push_back(LayerEntry(own_values));
      json mix = json::array();
      for (const auto& pair : table_.mix[layer]) {
        mix.push_back(pair ? json::array({pair->first, pair->second}) : json(nullptr));
      }
      mixes.push_back(l == 0 ? json(nullptr) : mix);
    }
    return {{"scores", scores}, {"keys", keys}, {"values", values}, {"value_mix", mixes}};
  }

  std::mt19937_64 random_;
  const int layers_;
  const int query_heads_;
  const int kv_heads_;
  NaiveTable table_;
};

}  // namespace

RandomPlan MakeRandomPlan(uint64_t seed, int num_layers, int num_query_heads, int num_kv_heads) {
  return PlanMaker(seed, num_layers, num_query_heads, num_kv_heads).Make();
}

}  // namespace strata::testing
