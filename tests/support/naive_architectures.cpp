#include "tests/support/naive_architectures.h"

#include <algorithm>

namespace strata::testing {
namespace {

using Function = NaiveArchitecture::Function;

bool Contains(const std::vector<int>& list, int value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// own * V_layer + first * V_0, both as projected.
NaiveMatrix Mixed(NaivePass& pass, int layer, int kv_head, double own, double first) {
  NaiveMatrix mixed = pass.Value(layer, kv_head);
  const NaiveMatrix& first_values = pass.Value(0, kv_head);
  for (size_t i = 0; i < mixed.values.size(); ++i) {
    mixed.values[i] = own * mixed.values[i] + first * first_values.values[i];
  }
  return mixed;
}

// The list of probabilities that a layer of the Reuse Transformer hands to the one above.
std::vector<NaiveMatrix> HandedOn(NaivePass& pass, const std::vector<int>& compute_layers,
                                  int reused, int layer) {
  const int heads = pass.config().query_heads;
  const bool computes = Contains(compute_layers, layer);
  std::vector<NaiveMatrix> list;
  for (int h = computes ? 0 : reused; h < heads; ++h) {
    list.push_back(pass.OwnProbabilities(layer, h));
  }
  if (!computes) {
    std::vector<NaiveMatrix> below = HandedOn(pass, compute_layers, reused, layer - 1);
    for (int i = 0; i < reused; ++i) list.push_back(std::move(below[static_cast<size_t>(i)]));
  }
  return list;
}

}  // namespace

NaiveArchitecture NaivePlain() {
  return {
      .probabilities = [](NaivePass& pass, int l, int h) { return pass.OwnProbabilities(l, h); },
      .keys = [](NaivePass& pass, int l, int h) { return pass.Key(l, pass.KvHeadOf(h)); },
      .values = [](NaivePass& pass, int l,
                   int h) { return pass.architecture().written(pass, l, pass.KvHeadOf(h)); },
      .written = [](NaivePass& pass, int l, int g) { return pass.Value(l, g); },
  };
}

void NaiveSvFormer(NaiveArchitecture& a, std::vector<int> anchors) {
  a.values = [anchors = std::move(anchors)](NaivePass& pass, int l, int h) {
    int latest = 0;
    for (const int anchor : anchors) {
      if (anchor <= l) latest = std::max(latest, anchor);
    }
    return pass.architecture().written(pass, latest, pass.KvHeadOf(h));
  };
}

void NaiveResFormer(NaiveArchitecture& a, double own, double first, std::vector<int> layers) {
  a.written = [own, first, layers = std::move(layers)](NaivePass& pass, int l, int g) {
    return Contains(layers, l) ? Mixed(pass, l, g, own, first) : pass.Value(l, g);
  };
}

void NaiveLearnableResFormer(NaiveArchitecture& a, std::vector<int> layers) {
  a.written = [layers = std::move(layers)](NaivePass& pass, int l, int g) {
    if (!Contains(layers, l)) return pass.Value(l, g);
    const NaiveTensor& mix =
        pass.Tensor("model.layers." + std::to_string(l) + ".self_attn.value_mix");
    return Mixed(pass, l, g, mix.data.at(0), mix.data.at(1));
  };
}

void NaiveReuse(NaiveArchitecture& a, std::vector<int> compute_layers, int reused) {
  a.probabilities = [compute_layers = std::move(compute_layers), reused](NaivePass& pass, int l,
                                                                         int h) {
    if (Contains(compute_layers, l) || h >= reused) return pass.OwnProbabilities(l, h);
    return HandedOn(pass, compute_layers, reused, l - 1).at(static_cast<size_t>(h));
  };
}

void NaiveSla(NaiveArchitecture& a, int skip_layers, int skip_heads) {
  const auto skips = [skip_layers, skip_heads](const NaivePass& pass, int l, int h) {
    return l >= skip_layers && h >= pass.config().query_heads - skip_heads;
  };
  const Function keys = a.keys;
  a.keys = [keys, skips, skip_layers](NaivePass& pass, int l, int h) {
    return skips(pass, l, h) ? pass.Key(l - skip_layers, pass.KvHeadOf(h)) : keys(pass, l, h);
  };
  const Function values = a.values;
  a.values = [values, skips, skip_layers](NaivePass& pass, int l, int h) {
    return skips(pass, l, h) ? pass.architecture().written(pass, l - skip_layers, pass.KvHeadOf(h))
                             : values(pass, l, h);
  };
}

void NaiveCla(NaiveArchitecture& a, int factor) {
  a.keys = [factor](NaivePass& pass, int l, int h) {
    return pass.Key(l / factor * factor, pass.KvHeadOf(h));
  };
  a.values = [factor](NaivePass& pass, int l, int h) {
    return pass.architecture().written(pass, l / factor * factor, pass.KvHeadOf(h));
  };
}

void NaiveKvGroups(NaiveArchitecture& a, std::vector<std::vector<int>> groups) {
  const auto first = [groups = std::move(groups)](int l) {
    for (const std::vector<int>& group : groups) {
      if (Contains(group, l)) return group.front();
    }
    return l;
  };
  a.keys = [first](NaivePass& pass, int l, int h) { return pass.Key(first(l), pass.KvHeadOf(h)); };
  a.values = [first](NaivePass& pass, int l, int h) {
    return pass.architecture().written(pass, first(l), pass.KvHeadOf(h));
  };
}

void NaiveSkipV1(NaiveArchitecture& a) {
  a.values = [](NaivePass& pass, int l, int h) {
    const int g = pass.KvHeadOf(h);
    return pass.architecture().written(pass, g < pass.config().kv_heads / 2 ? l : 0, g);
  };
}

void NaiveFusedKvLite(NaiveArchitecture& a, int layer) {
  const Function keys = a.keys;
  a.keys = [keys, layer](NaivePass& pass, int l, int h) {
    return l > layer ? pass.Key(layer, pass.KvHeadOf(h)) : keys(pass, l, h);
  };
  const Function values = a.values;
  a.values = [values, layer](NaivePass& pass, int l, int h) {
    return l > layer ? pass.architecture().written(pass, 0, pass.KvHeadOf(h)) : values(pass, l, h);
  };
}

NaiveArchitecture NaiveFromTable(NaiveTable table) {
  const auto at = [](const std::vector<std::vector<NaiveTable::Ref>>& list, int l, int h) {
    return list.at(static_cast<size_t>(l)).at(static_cast<size_t>(h));
  };
  NaiveArchitecture a;
  a.probabilities = [at, scores = table.scores](NaivePass& pass, int l, int h) {
    const auto [layer, head] = at(scores, l, h);
    if (layer == l && head == h) return pass.OwnProbabilities(l, h);
    return pass.architecture().probabilities(pass, layer, head);
  };
  a.keys = [at, keys = table.keys](NaivePass& pass, int l, int h) {
    const auto [layer, head] = at(keys, l, h);
    return pass.Key(layer, head);
  };
  a.values = [at, values = table.values](NaivePass& pass, int l, int h) {
    const auto [layer, head] = at(values, l, h);
    return pass.architecture().written(pass, layer, head);
  };
  a.written = [mixes = table.mix](NaivePass& pass, int l, int g) {
    const auto& mix = mixes.at(static_cast<size_t>(l)).at(static_cast<size_t>(g));
    return mix ? Mixed(pass, l, g, mix->first, mix->second) : pass.Value(l, g);
  };
  return a;
}

}  // namespace strata::testing
