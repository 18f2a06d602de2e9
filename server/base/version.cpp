#include "server/base/version.h"

namespace strata::server {

const char* Version() { return STRATA_VERSION; }

}  // namespace strata::server
