#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/serve/engine.h"
#include "server/generation/generation.h"
#include "strata/v1/inference.pb.h"

// Between the messages of inference.proto and the values of engine and Generation. Pure functions.
namespace strata::server {

// INVALID_ARGUMENT for a field that this server's API does not have, UNIMPLEMENTED for chat
// messages. The deadline is not in the message: it is the call's.
absl::StatusOr<GenerationRequest> ParseRequest(const v1::GenerateRequest& message);

// INVALID_ARGUMENT naming the number of a field that the message holds, or one within it, and that
// is not in inference.proto: a later client's, which would be dropped in silence.
absl::Status RefuseUnknownFields(const google::protobuf::Message& message);

void FillStarted(const GenerationStarted& started, v1::Started* message);
void FillPromptLogprobs(const std::vector<engine::TokenLogprobs>& logprobs,
                        v1::PromptLogprobs* message);
void FillDelta(GenerationDelta delta, v1::Delta* message);
void FillFinished(const GenerationFinished& finished, v1::Finished* message);
void FillModel(const engine::ModelInfo& model, v1::Model* message);

}  // namespace strata::server
