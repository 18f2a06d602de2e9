#pragma once

#include <cstdio>
#include <cstdlib>

// STRATA_CHECK(condition, "why it must hold"): ends the process when one of our own invariants is
// broken. A mistake of a user or a file is an absl::Status instead.
#define STRATA_CHECK(condition, why)                                                               \
  do {                                                                                             \
    if (!(condition)) [[unlikely]] {                                                               \
      std::fprintf(stderr, "%s:%d: check failed: %s (%s)\n", __FILE__, __LINE__, #condition, why); \
      std::abort();                                                                                \
    }                                                                                              \
  } while (false)
