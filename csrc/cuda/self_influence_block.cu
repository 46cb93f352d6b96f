// scores[b] = rate * K(b, b). FLOPs per block: 2 F D (G + B), 2 S^2 B for M S, 2 F G for |v|^2.
#include "factors.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "warp.cuh"

#include "self_scores.cuh"
}  // namespace

template <typename T>
void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate, T* scores,
                          Device& device) {
  const Factors<T> f = compute_factors(m, on.M != nullptr, on.entity || on.relation, triples, B, device);
  const int64_t D = m.D, size_S = m.size_S(), F = m.C * m.middle.P, G = f.samples.G;
  T* squares = on.fc ? device.array<T>(G) : nullptr;
  if (squares) run("squares", squares_kernel<T>, launch_warps("squares", G), device.stream(), f.v, G, F, squares);
  T* MS = on.M ? device.array<T>(B * size_S) : nullptr;
  if (MS)
    device.multiply(row_major(f.linear + 2 * D, B, size_S, f.columns), row_major(on.M, size_S, size_S),
                    row_major(MS, B, size_S));
  run("self_scores", self_scores_kernel<T>, launch_warps("self_scores", B), device.stream(), D, size_S, on, f.samples,
      squares, f.w, f.z, f.linear, f.columns, f.delta, f.cq, MS, rate, scores);
}

template void self_influence_block(const Model<float>&, const Tracked<float>&, const int64_t*, int64_t, float, float*,
                                   Device&);
template void self_influence_block(const Model<double>&, const Tracked<double>&, const int64_t*, int64_t, double,
                                   double*, Device&);

}  // namespace tracin::cuda
