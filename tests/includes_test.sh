#!/usr/bin/env bash
# Who may include whom: server -> engine -> kvcache -> kernels, server -> proto, and no CUDA header
# outside kernels/cuda. Every violation is printed as file:line.
set -euo pipefail
cd "$(dirname "$0")/.."

violations=0
# forbid FOLDER PATTERN: no file of FOLDER has an #include that matches PATTERN.
forbid() {
  if grep -rnE --include='*.h' --include='*.cpp' --include='*.cu' "#include [\"<]($2)" "$1"; then
    echo "^ $1 must not include $2"
    violations=1
  fi
}
forbid kernels 'kvcache/|engine/|server/|proto/|strata/v1/|grpc|google/protobuf'
forbid kvcache 'engine/|server/|proto/|strata/v1/|grpc|google/protobuf'
forbid engine 'server/|proto/|strata/v1/|grpc|google/protobuf|prometheus|httplib'
forbid server 'kvcache/|kernels/'
forbid deploy '.*'
for folder in kvcache engine server kernels/cpu; do forbid "$folder" 'cuda|cublas'; done
# Deadlines and ages are the steady clock's: the system's may be set at any time.
if grep -rn --include='*.h' --include='*.cpp' 'system_clock' kernels kvcache engine; then
  echo "^ the engine's times are the steady clock's"
  violations=1
fi
exit "$violations"
