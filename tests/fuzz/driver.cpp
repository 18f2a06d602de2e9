// Feeds a fuzz target without libFuzzer: every seed as it is, then random mutations of the seeds
// until the time is up. Not guided by coverage; clang's libFuzzer (-DSTRATA_FUZZ=ON) is, and runs
// by hand. Each input is written to ./crash-PROGRAM before the target sees it, so a crash leaves
// its input there.
//
//   safetensors_fuzz [--seconds S] [--seed N] SEED_FILE_OR_FOLDER...
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Random = std::mt19937_64;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> ReadSeeds(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> seeds;
  for (const auto& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      seeds.push_back(ReadFile(path));
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      seeds.push_back(ReadFile(entry.path()));
    }
  }
  return seeds;
}

size_t Below(Random& random, size_t limit) { return static_cast<size_t>(random() % limit); }

// One random edit: flip, overwrite, insert, delete, repeat, splice with another seed, or a number
// of a kind that breaks parsers.
void Mutate(Random& random, const std::vector<std::string>& seeds, std::string& input) {
  static constexpr std::string_view kTokens[] = {"-1",
                                                 "0",
                                                 "1e400",
                                                 "4294967296",
                                                 "9223372036854775807",
                                                 "18446744073709551616",
                                                 "null",
                                                 "[]",
                                                 "{}",
                                                 "\"\"",
                                                 "true",
                                                 "NaN",
                                                 "[[[[[[[[",
                                                 "\xff",
                                                 "0x",
                                                 "1e-9",
                                                 "\\u0000"};
  const size_t at = Below(random, input.size() + 1);
  const size_t length = std::min(input.size() - at, 1 + Below(random, 16));
  switch (Below(random, 7)) {
    case 0:
      if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << Below(random, 8)));
      break;
    case 1:
      if (at < input.size()) input[at] = static_cast<char>(random());
      break;
    case 2:
      input.insert(at, 1, static_cast<char>(random()));
      break;
    case 3:
      input.erase(at, length);
      break;
    case 4:
      input.insert(at, input.substr(at, length));
      break;
    case 5: {
      const std::string& other = seeds[Below(random, seeds.size())];
      input = input.substr(0, at) + other.substr(Below(random, other.size() + 1));
      break;
    }
    default:
      input.replace(at, length, kTokens[Below(random, std::size(kTokens))]);
  }
}

// Keeps the input under test in a file that stays open: some file systems write a truncated and
// refilled file to the disk when it is closed, which took most of the time.
class Keeper {
 public:
  explicit Keeper(const std::filesystem::path& program)
      : path_("crash-" + program.filename().string()),
        file_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {}
  ~Keeper() {
    close(file_);
    std::filesystem::remove(path_);
  }
  void Keep(const std::string& input) {
    const auto size = static_cast<ssize_t>(input.size());
    if (ftruncate(file_, size) != 0 || pwrite(file_, input.data(), input.size(), 0) != size) {
      std::perror(path_.c_str());
    }
  }

 private:
  const std::string path_;
  const int file_;
};

void Run(Keeper* keeper, const std::string& input) {
  keeper->Keep(input);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 5;
  uint64_t seed = std::random_device()();
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      paths.emplace_back(argument);
    }
  }
  std::vector<std::string> seeds = ReadSeeds(paths);
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds given\n");
    return 1;
  }
  std::printf("%zu seeds, random seed %llu\n", seeds.size(), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  Keeper keeper(argv[0]);
  for (const std::string& input : seeds) Run(&keeper, input);

  Random random(seed);
  int64_t runs = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    std::string input = seeds[Below(random, seeds.size())];
    for (size_t edits = 1 + Below(random, 6); edits > 0; --edits) Mutate(random, seeds, input);
    Run(&keeper, input);
  }
  std::printf("%lld mutated inputs, none broke it\n", static_cast<long long>(runs));
  return 0;
}
