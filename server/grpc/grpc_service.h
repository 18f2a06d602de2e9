#pragma once

#include <string_view>

#include "grpcpp/grpcpp.h"
#include "server/generation/generation.h"
#include "strata/v1/inference.grpc.pb.h"

namespace strata::server {

// strata.v1.Inference on the callback API. Holds no state of its own; the objects that `context`
// points to must outlive the server that this service is registered with.
class GrpcService final : public v1::Inference::CallbackService {
 public:
  explicit GrpcService(const GenerationContext& context) : context_(context) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* call, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  // For the caller with this `authorization`; errors also as AdmitCaller.
  absl::Status Encode(std::string_view authorization, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) const;
  absl::Status Decode(std::string_view authorization, const v1::DetokenizeRequest& request,
                      v1::DetokenizeResponse* response) const;

  const GenerationContext context_;
};

}  // namespace strata::server
