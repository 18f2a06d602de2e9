#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/serve/engine.h"
#include "server/generation/generation.h"
#include "strata/v1/inference.pb.h"

// Converts between messages of inference.proto and values of engine and Generation. Pure functions.
namespace strata::server {

// Parameters that the message omits have the model's `defaults`. INVALID_ARGUMENT for a field that
// this server's API does not have, UNIMPLEMENTED for chat messages. The deadline is the call's, not
// the message's.
absl::StatusOr<GenerationRequest> ParseRequest(const v1::GenerateRequest& message,
                                               const engine::SamplingDefaults& defaults = {});

// INVALID_ARGUMENT naming the number of a field in the message, at any depth, that is not in
// inference.proto. A later client may send one; otherwise it would be dropped in silence.
absl::Status RefuseUnknownFields(const google::protobuf::Message& message);

void FillStarted(const GenerationStarted& started, v1::Started* message);
void FillPromptLogprobs(const std::vector<engine::TokenLogprobs>& logprobs,
                        v1::PromptLogprobs* message);
void FillDelta(GenerationDelta delta, v1::Delta* message);
void FillFinished(const GenerationFinished& finished, v1::Finished* message);
void FillModel(const engine::ModelInfo& model, v1::Model* message);

}  // namespace strata::server
