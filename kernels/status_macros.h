#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early returns of errors, for functions that return a Status or a StatusOr. The server gets them
// with engine/base/errors.h.

// Returns the status that the expression gives, if it is an error.
#define RETURN_IF_ERROR(...)                                              \
  do {                                                                    \
    if (absl::Status error_ = (__VA_ARGS__); !error_.ok()) return error_; \
  } while (false)

// Returns the expression's status if it is an error; else assigns its value to `lhs`, which may be
// a declaration without commas: ASSIGN_OR_RETURN(const auto text, ReadFile(path));
#define ASSIGN_OR_RETURN(lhs, ...) \
  ASSIGN_OR_RETURN_IMPL_(STRATA_JOIN_(status_or_, __LINE__), lhs, __VA_ARGS__)
#define ASSIGN_OR_RETURN_IMPL_(status_or, lhs, ...) \
  auto status_or = (__VA_ARGS__);                   \
  if (!status_or.ok()) return status_or.status();   \
  lhs = *std::move(status_or)
#define STRATA_JOIN_(a, b) STRATA_JOIN_IMPL_(a, b)
#define STRATA_JOIN_IMPL_(a, b) a##b
